import { openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { tensorsOf } from "./tensors.mjs";

const architectures = ["LlamaForCausalLM", "Qwen2ForCausalLM"];

function readConfig(directory) {
  return JSON.parse(readFileSync(join(directory, "config.json"), "utf8"));
}

/** Whether {@link readModel} knows the architecture of a Hugging Face directory. */
export function isReadable(directory) {
  return architectures.includes(readConfig(directory).architectures[0]);
}

/**
 * A Hugging Face directory of one of the dense architectures: its `shape`, its `tensors` by {@link tensorsOf}, and
 * `rowsOf(tensor)`, which reads their rows as float32.
 */
export function readModel(directory) {
  const config = readConfig(directory);
  const [architecture] = config.architectures;
  if (!architectures.includes(architecture)) {
    throw new Error(`${directory}: expected ${architectures.join(" or ")}, found ${architecture}`);
  }
  const { rope_theta, ...rope } = config.rope_parameters ?? config.rope_scaling ?? {};
  const shape = {
    head_dim: config.hidden_size / config.num_attention_heads,
    ...config,
    architecture,
    rope_theta: rope_theta ?? config.rope_theta,
    rope_scaling: rope.rope_type === "llama3" ? rope : undefined,
  };
  if (![undefined, "default", "llama3"].includes(rope.rope_type)) {
    throw new Error(`${directory}: rope_type ${rope.rope_type} is not known here`);
  }
  const stored = readHeaders(directory);
  return { shape, tensors: tensorsOf(shape), rowsOf: ({ name }) => rowsIn(stored.get(name), name) };
}

/** Tensors by name: file, dtype, shape and where their bytes begin. */
function readHeaders(directory) {
  const stored = new Map();
  for (const name of readdirSync(directory).filter((file) => file.endsWith(".safetensors"))) {
    const file = openSync(join(directory, name));
    const start = 8 + Number(readBytes(file, 0, 8).readBigUInt64LE());
    const header = JSON.parse(readBytes(file, 8, start - 8).toString());
    for (const [tensor, { dtype, shape, data_offsets: [begin] = [] }] of Object.entries(header)) {
      stored.set(tensor, { file, dtype, shape, offset: start + begin });
    }
  }
  return stored;
}

/** Bytes of an element, and how a row of them becomes numbers. */
const decoders = {
  F32: { size: 4, decode: (bytes) => new Float32Array(bytes) },
  BF16: {
    size: 2,
    decode: (bytes) => {
      const widened = Uint32Array.from(new Uint16Array(bytes), (bits) => bits << 16);
      return new Float32Array(widened.buffer);
    },
  },
};

function rowsIn(tensor, name) {
  const decoder = decoders[tensor?.dtype];
  if (decoder === undefined) throw new Error(`${name} is ${tensor?.dtype ?? "missing"}`);
  const rowBytes = tensor.shape.at(-1) * decoder.size;
  return (row, out) => {
    const bytes = readBytes(tensor.file, tensor.offset + row * rowBytes, rowBytes);
    out.set(decoder.decode(bytes.buffer));
  };
}

function readBytes(file, offset, length) {
  const bytes = Buffer.from(new ArrayBuffer(length));
  if (readSync(file, bytes, 0, length, offset) < length) throw new Error("A file is too short");
  return bytes;
}
