import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { architectures } from "./architectures.mjs";
import { encodeTensor, rowBytes, rowsAndCols } from "./encode-tensor.mjs";
import { chatTemplate, eosTokenId, makeVocabulary, specialTokens } from "./tokenizer.mjs";
import { tokenizerJson } from "./tokenizer.mjs";

const dtype = "BF16";

/** Writes the tensors of a shape as a Hugging Face model directory in bfloat16; `rowsOf(tensor)` fills their rows. */
export function writeDirectory(directory, shape, tensors, { rowsOf }) {
  mkdirSync(directory, { recursive: true });
  const json = (name, value) => writeFileSync(join(directory, name), JSON.stringify(value));
  const { architecture, ...fields } = shape;
  const { modelType } = architectures[architecture];
  if (modelType === undefined) throw new Error(`${architecture} is written as a GGUF file only`);
  const shared = { hidden_act: "silu", torch_dtype: "bfloat16", eos_token_id: eosTokenId };
  json("config.json", {
    architectures: [architecture],
    model_type: modelType,
    ...fields,
    ...shared,
  });
  json("generation_config.json", { eos_token_id: eosTokenId });
  json("tokenizer.json", tokenizerJson(makeVocabulary(shape.vocab_size)));
  json("tokenizer_config.json", {
    eos_token: specialTokens[eosTokenId],
    chat_template: chatTemplate,
    clean_up_tokenization_spaces: false,
  });
  const file = join(directory, "model.safetensors");
  writeSafetensors(
    file,
    tensors.flatMap((tensor) => filled(tensor, rowsOf(tensor))),
  );
}

/** A tensor and what fills its rows; of experts each one's own. */
function filled({ name, shape }, fill) {
  if (shape.length < 3) return [{ name, shape, fill }];
  const [experts, ...own] = shape;
  return Array.from({ length: experts }, (_, expert) => {
    const first = expert * own[0];
    return { name: name(expert), shape: own, fill: (row, out) => fill(first + row, out) };
  });
}

function writeSafetensors(file, tensors) {
  let end = 0;
  const entries = tensors.map(({ name, shape }) => {
    const [rows, cols] = rowsAndCols(shape);
    const begin = end;
    end += rows * rowBytes(dtype, cols);
    return [name, { dtype, shape, data_offsets: [begin, end] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const handle = openSync(file, "w");
  try {
    writeSync(handle, Buffer.concat([length, header]));
    for (const tensor of tensors) {
      encodeTensor(tensor, dtype, { fill: tensor.fill }, (bytes) => writeSync(handle, bytes));
    }
  } finally {
    closeSync(handle);
  }
}
