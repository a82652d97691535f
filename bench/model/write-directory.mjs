import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { encodeTensor, rowBytes } from "./encode-tensor.mjs";
import { chatTemplate, eosTokenId, makeVocabulary, specialTokens } from "./tokenizer.mjs";
import { tokenizerJson } from "./tokenizer.mjs";

const dtype = "BF16";

/** Writes the tensors of a shape as a Hugging Face model directory in bfloat16; `rowsOf(tensor)` fills their rows. */
export function writeDirectory(directory, shape, tensors, { rowsOf }) {
  mkdirSync(directory, { recursive: true });
  const json = (name, value) => writeFileSync(join(directory, name), JSON.stringify(value));
  const { architecture, ...fields } = shape;
  const modelType = architecture === "Qwen2ForCausalLM" ? "qwen2" : "llama";
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
  writeSafetensors(join(directory, "model.safetensors"), tensors, rowsOf);
}

function writeSafetensors(file, tensors, rowsOf) {
  let end = 0;
  const entries = tensors.map(({ name, shape }) => {
    const [rows, cols] = shape.length === 1 ? [1, shape[0]] : shape;
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
      encodeTensor(tensor, dtype, { fill: rowsOf(tensor) }, (bytes) => writeSync(handle, bytes));
    }
  } finally {
    closeSync(handle);
  }
}
