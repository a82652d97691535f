import { closeSync, openSync, writeSync } from "node:fs";
import { blockFormats } from "./block-formats.mjs";
import { encodeTensor, rowBytes } from "./encode-tensor.mjs";
import { chatTemplate, eosTokenId, makeVocabulary, specialTokens } from "./tokenizer.mjs";

const alignment = 32;

/** Writes the tensors of a shape as a GGUF file; `typeOf(tensor)` names the type of each, `rowsOf(tensor)` fills its rows. */
export function writeGguf(file, shape, tensors, { name, typeOf, rowsOf }) {
  const all = [...tensors.map((tensor) => placed(tensor, typeOf(tensor))), ...ropeFactors(shape)];
  const permutes = shape.architecture === "LlamaForCausalLM";
  const handle = openSync(file, "w");
  try {
    writeSync(handle, pad(header(metadataOf(shape, name), all)));
    for (const { tensor, type, bytes, data } of all) {
      if (data !== undefined) writeSync(handle, data);
      const order = permutes && tensor?.heads !== undefined ? permutedRow(tensor) : undefined;
      if (tensor !== undefined)
        encodeTensor(tensor, type, { fill: rowsOf(tensor), order }, (b) => writeSync(handle, b));
      writeSync(handle, Buffer.alloc(padding(bytes)));
    }
  } finally {
    closeSync(handle);
  }
}

function placed(tensor, type) {
  const { shape, gguf } = tensor;
  const [rows, cols] = shape.length === 1 ? [1, shape[0]] : shape;
  return { tensor, type, shape, gguf, bytes: rows * rowBytes(type, cols) };
}

/** In each head rows i and i + half become neighbours. */
function permutedRow({ shape: [rows], heads }) {
  const dim = rows / heads;
  return (row) => {
    const inHead = row % dim;
    return row - inHead + (inHead >> 1) + (inHead % 2) * (dim / 2);
  };
}

/** `llama3` scaling: what each frequency of the rotary embedding is divided by. */
function ropeFactors({ rope_scaling: scaling, rope_theta: theta, head_dim: dim }) {
  if (scaling === undefined) return [];
  const { factor, low_freq_factor: low, high_freq_factor: high } = scaling;
  const context = scaling.original_max_position_embeddings;
  const factors = Float32Array.from({ length: dim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / dim);
    const smooth = Math.min(Math.max((context / wavelength - low) / (high - low), 0), 1);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  const data = Buffer.from(factors.buffer);
  return [{ type: "F32", shape: [dim / 2], gguf: "rope_freqs.weight", bytes: data.length, data }];
}

function metadataOf(shape, name) {
  const { tokens, merges } = makeVocabulary(shape.vocab_size);
  const architecture = shape.architecture === "Qwen2ForCausalLM" ? "qwen2" : "llama";
  const key = (suffix) => `${architecture}.${suffix}`;
  return [
    ["general.architecture", string(architecture)],
    ["general.name", string(name)],
    [key("block_count"), u32(shape.num_hidden_layers)],
    [key("context_length"), u32(shape.max_position_embeddings)],
    [key("embedding_length"), u32(shape.hidden_size)],
    [key("feed_forward_length"), u32(shape.intermediate_size)],
    [key("attention.head_count"), u32(shape.num_attention_heads)],
    [key("attention.head_count_kv"), u32(shape.num_key_value_heads)],
    [key("attention.key_length"), u32(shape.head_dim)],
    [key("attention.value_length"), u32(shape.head_dim)],
    [key("attention.layer_norm_rms_epsilon"), f32(shape.rms_norm_eps)],
    [key("rope.dimension_count"), u32(shape.head_dim)],
    [key("rope.freq_base"), f32(shape.rope_theta)],
    [key("vocab_size"), u32(shape.vocab_size)],
    ["tokenizer.ggml.model", string("gpt2")],
    ["tokenizer.ggml.pre", string("gpt-2")],
    ["tokenizer.ggml.tokens", array(8, tokens.map(text))],
    [
      "tokenizer.ggml.token_type",
      array(
        5,
        tokens.map((_, id) => integer(tokenType(id))),
      ),
    ],
    ["tokenizer.ggml.merges", array(8, merges.map(text))],
    ["tokenizer.ggml.eos_token_id", u32(eosTokenId)],
    ["tokenizer.ggml.bos_token_id", u32(0)],
    ["tokenizer.ggml.add_bos_token", Buffer.concat([integer(7), Buffer.of(0)])],
    ["tokenizer.chat_template", string(chatTemplate)],
  ];
}

/** 3: control, 1: normal. */
function tokenType(id) {
  return id < specialTokens.length ? 3 : 1;
}

/** Magic, version 3, counts, metadata, and where the tensors lie. */
function header(metadata, tensors) {
  const parts = [Buffer.from("GGUF"), integer(3), long(tensors.length), long(metadata.length)];
  for (const [key, value] of metadata) parts.push(text(key), value);
  let offset = 0;
  for (const { gguf, shape, type, bytes } of tensors) {
    parts.push(text(gguf), integer(shape.length), ...shape.toReversed().map(long));
    parts.push(integer(blockFormats[type].id), long(offset));
    offset += bytes + padding(bytes);
  }
  return Buffer.concat(parts);
}

function padding(bytes) {
  return (alignment - (bytes % alignment)) % alignment;
}

function pad(bytes) {
  return Buffer.concat([bytes, Buffer.alloc(padding(bytes.length))]);
}

function integer(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function long(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** Length and bytes. */
function text(value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([long(bytes.length), bytes]);
}

// ---- values with their types

function u32(value) {
  return Buffer.concat([integer(4), integer(value)]);
}

function f32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([integer(6), bytes]);
}

function string(value) {
  return Buffer.concat([integer(8), text(value)]);
}

function array(type, items) {
  return Buffer.concat([integer(9), integer(type), long(items.length), ...items]);
}
