import { open } from "node:fs/promises";
import { PagodaError } from "../errors.js";
import type { ModelDtype } from "../graph/choose-dtype.js";
import {
  blockFormat,
  isFileDtype,
  isQuantized,
  rowBytes,
  type FileDtype,
  type KeptDtype,
  type QuantizedDtype,
} from "../graph/dtypes.js";
import type { PartStrides, PlanWeight, WeightPart } from "../graph/plan.js";
import type { NativeWeightPart } from "../native.js";
import { dequantize } from "../reference/dequantize.js";
import { halfToNumber, roundToHalf } from "../reference/half.js";
import { roundToBf16 } from "../reference/matrix.js";
import { roundToQuantized } from "../reference/quantize.js";
import type { Checkpoint, TensorEntry } from "./safetensors.js";

/**
 * The type in memory that `dtype: "auto"` chooses for what does not keep its type: f32 where most bytes of the
 * checkpoint are F32 or F16, else bf16.
 */
export function automaticDtype({ tensors }: Checkpoint): "f32" | "bf16" {
  let balance = 0;
  for (const { dtype, bytes } of tensors.values()) {
    const isNarrow = dtype === "BF16" || (isFileDtype(dtype) && blockFormat(dtype).columns > 1);
    balance += isNarrow ? bytes : -bytes;
  }
  return balance > 0 ? "bf16" : "f32";
}

/** The tensors that stay in memory as they are in their file, quantised or F16, and their types. */
export function keptTensors({ tensors }: Checkpoint): ReadonlyMap<string, KeptDtype> {
  const kept = new Map<string, KeptDtype>();
  for (const [name, { dtype }] of tensors) {
    if (dtype === "F16" || (isFileDtype(dtype) && blockFormat(dtype).columns > 1)) {
      kept.set(name, dtype.toLowerCase() as KeptDtype);
    }
  }
  return kept;
}

/** The type of the KV cache that `kvCache.dtype: "auto"` chooses. */
export function automaticKvDtype(dtype: ModelDtype): "f32" | "bf16" {
  return dtype === "f32" ? "f32" : "bf16";
}

/**
 * Where the parts of a plan's weight lie in the files of a checkpoint, in order. For a vector, `rowStart` and `rows` count
 * elements: its parts are joined end to end. Constant weights have no parts.
 * @throws PagodaError ERR_TENSOR_MISMATCH (`details`: tensor, expected, received) for a tensor that is missing, has another
 *   shape, or has a dtype that is not supported: vectors are not quantised, other rows only in whole blocks
 */
export function resolveWeight(checkpoint: Checkpoint, weight: PlanWeight): NativeWeightPart[] {
  if ("data" in weight.source) return [];
  let rowStart = 0;
  return weight.source.parts.map((part) => {
    const entry = findTensor(checkpoint, part);
    const isVector = weight.kind === "vector";
    const rowLength = part.strides === undefined ? weight.cols : (entry.shape.at(-1) ?? 0);
    const stored = fileDtype(entry, isVector ? 1 : rowLength);
    const dtype = entry.quantized?.readAs ?? stored;
    const rows = isVector ? (part.strides?.cols ?? part.shape[0] ?? 0) : part.rows;
    const place =
      part.strides !== undefined
        ? placeOfStrided(entry, part.strides, isVector)
        : isVector
          ? { offset: entry.offset }
          : placeOfRows(entry, part.rowStart, rowBytes(dtype, weight.cols));
    const resolved = { file: entry.file, ...place, dtype, rowStart, rows };
    rowStart += rows;
    return resolved;
  });
}

/** Codes are found by the number of the row. */
function placeOfRows(
  { offset, quantized, exponents: scales }: TensorEntry,
  rowStart: number,
  rowLength: number,
): Pick<NativeWeightPart, "offset" | "quantized" | "mxfp4"> {
  if (quantized !== undefined) return { offset, quantized: { ...quantized, firstRow: rowStart } };
  if (scales !== undefined) return { offset, mxfp4: { scales, firstRow: rowStart, rowStep: 1 } };
  return { offset: offset + rowStart * rowLength };
}

/** Elements that do not follow each other; those of a vector are its rows. Of blocks, whole rows that are transposed. */
function placeOfStrided(
  { name, offset, dtype, quantized, exponents: scales, shape }: TensorEntry,
  { first, row, col, cols }: PartStrides,
  isVector: boolean,
): Pick<NativeWeightPart, "offset" | "strides" | "mxfp4"> {
  if (scales !== undefined && col === 1 && first % cols === 0 && row % cols === 0) {
    return { offset, mxfp4: { scales, firstRow: first / cols, rowStep: row / cols } };
  }
  const { columns, bytes } = blockFormat(dtype as FileDtype);
  const isTransposed = !isVector && row === 1 && col === shape.at(-1) && first % col === 0;
  const isApart = quantized !== undefined || scales !== undefined;
  if (isApart || (columns > 1 && !isTransposed)) {
    throw mismatch(name, "dtype F32, F16 or BF16", dtype);
  }
  return {
    offset: offset + (first / columns) * bytes,
    strides: isVector ? { row: col, col: 1 } : { row, col },
  };
}

function findTensor(checkpoint: Checkpoint, part: WeightPart): TensorEntry {
  const entry = checkpoint.tensors.get(part.tensor);
  const shapeText = (shape: readonly number[]): string => `[${shape.join(", ")}]`;
  const expected = part.shape;
  if (entry === undefined) {
    throw mismatch(part.tensor, `a tensor of shape ${shapeText(expected)}`, "nothing");
  }
  const { shape } = entry;
  const isSame = shape.length === expected.length && shape.every((n, i) => n === expected[i]);
  if (!isSame) {
    throw mismatch(part.tensor, `shape ${shapeText(expected)}`, shapeText(shape));
  }
  return entry;
}

function fileDtype(entry: TensorEntry, rowLength: number): FileDtype {
  const { dtype } = entry;
  if (!isFileDtype(dtype)) throw mismatch(entry.name, "dtype F32, F16, BF16 or quantised", dtype);
  const { columns } = blockFormat(dtype);
  if (rowLength % columns === 0) return dtype;
  throw mismatch(
    entry.name,
    `rows of a multiple of ${columns} columns for ${dtype}`,
    `${rowLength}`,
  );
}

function mismatch(tensor: string, expected: string, received: string): PagodaError {
  return new PagodaError(
    "ERR_TENSOR_MISMATCH",
    `Expected ${expected} for tensor ${tensor} but received ${received}`,
    {
      details: { tensor, expected, received },
    },
  );
}

/**
 * Reads a weight of a plan as float32 `[rows, cols]`, rounded to the plan's dtype. For the reference backend; native ones
 * read the files themselves.
 * @throws PagodaError ERR_TENSOR_MISMATCH as {@link resolveWeight}, ERR_MODEL_CORRUPT when a file became shorter,
 *   ERR_BACKEND_UNSUPPORTED for codes of quantised directories
 */
export async function readWeight(
  checkpoint: Checkpoint,
  weight: PlanWeight,
): Promise<Float32Array> {
  if ("data" in weight.source) return weight.source.data;
  const values = new Float32Array(weight.rows * weight.cols);
  const rowLength = weight.kind === "vector" ? 1 : weight.cols;
  for (const part of resolveWeight(checkpoint, weight)) {
    if (part.quantized !== undefined || part.mxfp4 !== undefined) {
      const message = "The reference backend does not read the weights of quantised directories";
      throw new PagodaError("ERR_BACKEND_UNSUPPORTED", message);
    }
    const read = await readPart(part, rowLength);
    const isExact = part.dtype === weight.dtype.toUpperCase();
    values.set(isExact ? read : roundTo(read, weight.dtype), part.rowStart * rowLength);
  }
  return values;
}

/** Float32 `[rows, cols]`. */
async function readPart(part: NativeWeightPart, cols: number): Promise<Float32Array> {
  const { file, offset, dtype, rows, strides } = part;
  if (strides === undefined) {
    return decode(await readBytes(file, offset, rows * rowBytes(dtype, cols)), dtype);
  }
  const isPlain = blockFormat(dtype).columns === 1;
  const last = (rows - 1) * strides.row + (cols - 1) * strides.col;
  const span = isPlain ? last + 1 : cols * strides.col;
  const all = decode(await readBytes(file, offset, rowBytes(dtype, span)), dtype);
  const at = (i: number): number => Math.floor(i / cols) * strides.row + (i % cols) * strides.col;
  return Float32Array.from({ length: rows * cols }, (_, i) => all[at(i)]!);
}

/** The nearest values that a type has. @throws ERR_BACKEND_UNSUPPORTED as {@link roundToQuantized} */
export function roundTo(values: Float32Array, dtype: PlanWeight["dtype"]): Float32Array {
  if (isQuantized(dtype)) return roundToQuantized(values, dtype);
  if (dtype === "f16") return values.map(roundToHalf);
  return dtype === "bf16" ? roundToBf16(values) : values;
}

/** @throws PagodaError ERR_MODEL_CORRUPT when the file is shorter */
export async function readBytes(file: string, offset: number, length: number): Promise<DataView> {
  const bytes = new Uint8Array(length);
  await using handle = await open(file);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await handle.read(bytes, filled, length - filled, offset + filled);
    if (bytesRead === 0) {
      throw new PagodaError("ERR_MODEL_CORRUPT", `${file} ends before byte ${offset + length}`, {
        details: { file },
      });
    }
    filled += bytesRead;
  }
  return new DataView(bytes.buffer);
}

/** Little-endian elements or blocks as float32. */
function decode(bytes: DataView, dtype: FileDtype): Float32Array {
  if (dtype !== "F32" && dtype !== "F16" && dtype !== "BF16") {
    return dequantize(bytes, dtype.toLowerCase() as QuantizedDtype);
  }
  const values = new Float32Array(bytes.byteLength / blockFormat(dtype).bytes);
  for (let i = 0; i < values.length; i++) {
    if (dtype === "F32") values[i] = bytes.getFloat32(4 * i, true);
    else if (dtype === "F16") values[i] = halfToNumber(bytes.getUint16(2 * i, true));
  }
  if (dtype === "BF16") {
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < bits.length; i++) bits[i] = bytes.getUint16(2 * i, true) << 16;
  }
  return values;
}
