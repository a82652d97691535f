import { closeSync, openSync, writeSync } from "node:fs";
import { blockFormats } from "./block-formats.mjs";
import { architectures } from "./architectures.mjs";
import { encodeTensor, rowBytes, rowsAndCols } from "./encode-tensor.mjs";
import { metadataOf } from "./gguf-metadata.mjs";
import { integer, long, text } from "./gguf-values.mjs";

const alignment = 32;

/** Writes the tensors of a shape as a GGUF file; `typeOf(tensor)` names the type of each, `rowsOf(tensor)` fills its rows. */
export function writeGguf(file, shape, tensors, { name, typeOf, rowsOf }) {
  const all = [...tensors.map((tensor) => placed(tensor, typeOf(tensor))), ...ropeFactors(shape)];
  const { permutes } = architectures[shape.architecture];
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
  const [rows, cols] = rowsAndCols(shape);
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
  if (scaling?.rope_type !== "llama3") return [];
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
