import { open } from "node:fs/promises";
import { PagodaError } from "../errors.js";
import type { PlanWeight, WeightPart } from "../graph/plan.js";
import type { NativeWeightPart } from "../native.js";
import { roundToBf16 } from "../reference/matrix.js";
import type { Checkpoint, TensorEntry } from "./safetensors.js";

type FileDtype = NativeWeightPart["dtype"];

const bytesPerElement: Readonly<Record<FileDtype, number>> = { F32: 4, F16: 2, BF16: 2 };

/** The type in memory that `dtype: "auto"` chooses: bf16 where most bytes of the checkpoint are, else f32. */
export function automaticDtype({ tensors }: Checkpoint): PlanWeight["dtype"] {
  let balance = 0;
  for (const { dtype, bytes } of tensors.values()) balance += dtype === "BF16" ? bytes : -bytes;
  return balance > 0 ? "bf16" : "f32";
}

/**
 * Where the parts of a plan's weight lie in the files of a checkpoint, in order. For a vector, `rowStart` and `rows` count
 * elements: its parts are joined end to end. Constant weights have no parts.
 * @throws PagodaError ERR_TENSOR_MISMATCH (`details`: tensor, expected, received) for a tensor that is missing, has another
 *   shape, or is not of dtype F32, F16 or BF16
 */
export function resolveWeight(checkpoint: Checkpoint, weight: PlanWeight): NativeWeightPart[] {
  if ("data" in weight.source) return [];
  let rowStart = 0;
  return weight.source.parts.map((part) => {
    const entry = findTensor(checkpoint, part);
    const dtype = fileDtype(entry);
    const isVector = weight.kind === "vector";
    const rows = isVector ? (part.shape[0] ?? 0) : part.rows;
    const rowBytes = bytesPerElement[dtype] * (isVector ? 1 : weight.cols);
    const offset = entry.offset + (isVector ? 0 : part.rowStart) * rowBytes;
    const resolved = { file: entry.file, offset, dtype, rowStart, rows };
    rowStart += rows;
    return resolved;
  });
}

function findTensor(checkpoint: Checkpoint, part: WeightPart): TensorEntry {
  const entry = checkpoint.tensors.get(part.tensor);
  const expected = `[${part.shape.join(", ")}]`;
  if (entry === undefined) throw mismatch(part.tensor, `a tensor of shape ${expected}`, "nothing");
  const received = `[${entry.shape.join(", ")}]`;
  if (received !== expected) throw mismatch(part.tensor, `shape ${expected}`, received);
  return entry;
}

function fileDtype(entry: TensorEntry): FileDtype {
  const { dtype } = entry;
  if (dtype === "F32" || dtype === "F16" || dtype === "BF16") return dtype;
  throw mismatch(entry.name, "dtype F32, F16 or BF16", dtype);
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
 * @throws PagodaError ERR_TENSOR_MISMATCH as {@link resolveWeight}, ERR_MODEL_CORRUPT when a file became shorter
 */
export async function readWeight(
  checkpoint: Checkpoint,
  weight: PlanWeight,
): Promise<Float32Array> {
  if ("data" in weight.source) return weight.source.data;
  const values = new Float32Array(weight.rows * weight.cols);
  const rowLength = weight.kind === "vector" ? 1 : weight.cols;
  for (const part of resolveWeight(checkpoint, weight)) {
    const elements = part.rows * rowLength;
    const bytes = await readBytes(part.file, part.offset, elements * bytesPerElement[part.dtype]);
    values.set(decode(bytes, part.dtype), part.rowStart * rowLength);
  }
  return weight.dtype === "bf16" ? roundToBf16(values) : values;
}

async function readBytes(file: string, offset: number, length: number): Promise<DataView> {
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

/** Little-endian elements as float32. */
function decode(bytes: DataView, dtype: FileDtype): Float32Array {
  const values = new Float32Array(bytes.byteLength / bytesPerElement[dtype]);
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

/** IEEE 754 binary16: sign, 5 bits of exponent, 10 bits of fraction. */
export function halfToNumber(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
