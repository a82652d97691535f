import { PagodaError } from "../errors.js";
import type { GroupQuantized, QuantizedPlace } from "../native.js";
import type { QuantizationScheme } from "./quantization-config.js";
import type { Checkpoint } from "./safetensors.js";
import type { TensorEntry } from "./safetensors-header.js";

/** Names behind the module's, by what they hold. */
interface Suffixes {
  readonly codes: string;
  readonly scales: string;
  readonly zeros: string;
}

/** Shapes of what belongs to a matrix `[rows, cols]`. */
interface Shapes {
  readonly rows: number;
  readonly cols: number;
  readonly scales: readonly number[];
  readonly zeros: readonly number[];
}

/**
 * The checkpoint with each quantised linear as one matrix `NAME.weight` of blocks, which the native loader makes of codes,
 * scales and zero points: Q4_0 for symmetric codes of 4 bits, else Q4_1; Q8_0 for 8 bits. All other tensors stay.
 *
 * Scales become f16, and the minima `-scale * zero` of Q4_1, too; symmetric codes with f16 scales are exact.
 *
 * @throws ERR_TENSOR_MISMATCH for a tensor that is missing, or has another dtype or shape than the scheme says;
 *   ERR_MODEL_UNSUPPORTED for groups of columns in another order
 */
export function blocksOfCodes(checkpoint: Checkpoint, scheme: QuantizationScheme): Checkpoint {
  const suffixes = suffixesOf(scheme);
  const tensors = new Map(checkpoint.tensors);
  for (const [name, codes] of checkpoint.tensors) {
    if (!name.endsWith(suffixes.codes) || (scheme.isWide && codes.dtype !== "I8")) continue;
    const module = name.slice(0, -suffixes.codes.length);
    refuseOrder(checkpoint, module, scheme);
    for (const suffix of Object.values(suffixes)) tensors.delete(module + suffix);
    tensors.set(`${module}.weight`, matrixOf(checkpoint, module, scheme));
  }
  return { files: checkpoint.files, tensors };
}

function suffixesOf({ method, isWide }: QuantizationScheme): Suffixes {
  if (method !== "compressed-tensors") {
    return { codes: ".qweight", scales: ".scales", zeros: ".qzeros" };
  }
  const codes = isWide ? ".weight" : ".weight_packed";
  return { codes, scales: ".weight_scale", zeros: ".weight_zero_point" };
}

/** With `actorder: "group"` a column's group is looked up. */
function refuseOrder(checkpoint: Checkpoint, module: string, scheme: QuantizationScheme): void {
  const index = `${module}.weight_g_idx`;
  if (scheme.method !== "compressed-tensors" || !checkpoint.tensors.has(index)) return;
  const message = `Tensor ${index}: groups of columns in another order are not supported`;
  throw new PagodaError("ERR_MODEL_UNSUPPORTED", message, { details: { tensor: index } });
}

function matrixOf(checkpoint: Checkpoint, module: string, scheme: QuantizationScheme): TensorEntry {
  const suffixes = suffixesOf(scheme);
  const codes = find(checkpoint, module + suffixes.codes, [scheme.isWide ? "I8" : "I32"]);
  const scales = find(checkpoint, module + suffixes.scales, ["F16", "BF16", "F32"]);
  const shapes = shapesOf(codes, scheme);
  const isSingle = scheme.method === "compressed-tensors" && product(scales) === 1;
  if (!isSingle) checkShape(scales, shapes.scales);
  const zeros = hasZeros(scheme) ? find(checkpoint, module + suffixes.zeros, ["I32"]) : undefined;
  if (zeros !== undefined) checkShape(zeros, shapes.zeros);
  const { rows, cols } = shapes;
  const quantized: GroupQuantized = {
    storage: storageOf(scheme),
    bits: scheme.bits,
    groupSize: scheme.groupSize ?? cols,
    tensorRows: rows,
    scaleCount: product(scales),
    scales: placeOf(scales),
    ...(zeros !== undefined && { zeros: placeOf(zeros) }),
    zeroShift: scheme.zeroShift,
  };
  const dtype = scheme.bits === 8 ? "Q8_0" : scheme.symmetric ? "Q4_0" : "Q4_1";
  return { ...codes, name: `${module}.weight`, dtype, shape: [rows, cols], quantized };
}

/** GPTQ writes zero points even where they are all the same. */
function hasZeros({ method, symmetric }: QuantizationScheme): boolean {
  return method === "gptq" || !symmetric;
}

function storageOf({ method, isWide }: QuantizationScheme): GroupQuantized["storage"] {
  if (method !== "compressed-tensors") return method;
  return isWide ? "bytes" : "packed";
}

/** What the shape of the codes says of the others. */
function shapesOf(codes: TensorEntry, scheme: QuantizationScheme): Shapes {
  const { method, bits, isWide } = scheme;
  const [first = 0, second = 0] = codes.shape;
  const perWord = isWide ? 1 : 32 / bits;
  const isTransposed = method !== "compressed-tensors";
  const cols = { gptq: first * perWord, awq: first, "compressed-tensors": second * perWord }[
    method
  ];
  const rows = { gptq: second, awq: second * perWord, "compressed-tensors": first }[method];
  const groups = cols / (scheme.groupSize ?? cols);
  const isWhole = codes.shape.length === 2 && rows > 0 && cols > 0 && cols % 32 === 0;
  if (!isWhole || !Number.isInteger(groups)) {
    const size = scheme.groupSize ?? "all";
    throw mismatch(codes, `codes of rows of whole groups of ${size} columns (32 at least)`);
  }
  const zeroRows = rows / (32 / bits);
  return {
    rows,
    cols,
    scales: isTransposed ? [groups, rows] : [rows, groups],
    zeros: isTransposed ? [groups, zeroRows] : [zeroRows, groups],
  };
}

function placeOf({ file, offset, dtype }: TensorEntry): QuantizedPlace {
  return { file, offset, dtype };
}

function find(checkpoint: Checkpoint, name: string, dtypes: readonly string[]): TensorEntry {
  const entry = checkpoint.tensors.get(name);
  const expected = `dtype ${dtypes.join(" or ")}`;
  if (entry !== undefined && dtypes.includes(entry.dtype)) return entry;
  throw mismatch(entry ?? { name }, expected, entry?.dtype ?? "nothing");
}

function checkShape(entry: TensorEntry, shape: readonly number[]): void {
  const expected = `[${shape.join(", ")}]`;
  if (`[${entry.shape.join(", ")}]` !== expected) throw mismatch(entry, `shape ${expected}`);
}

function product({ shape }: TensorEntry): number {
  return shape.reduce((total, size) => total * size, 1);
}

function mismatch(
  entry: Pick<TensorEntry, "name"> & Partial<TensorEntry>,
  expected: string,
  received = `[${(entry.shape ?? []).join(", ")}]`,
): PagodaError {
  const tensor = entry.name;
  return new PagodaError(
    "ERR_TENSOR_MISMATCH",
    `Expected ${expected} for tensor ${tensor} but received ${received}`,
    { details: { tensor, expected, received } },
  );
}
