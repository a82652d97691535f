import { PagodaError } from "../errors.js";
import { checkShape, expectTensor, tensorMismatch } from "./expect-tensor.js";
import type { GroupQuantized, QuantizedPlace } from "../native.js";
import type { QuantizationScheme } from "./quantization-config.js";
import type { Checkpoint } from "./safetensors.js";
import type { TensorEntry } from "./safetensors-header.js";
import { readBytes } from "./weights.js";

/** Names behind the module's, by what they hold. */
interface Suffixes {
  readonly codes: string;
  readonly scales: string;
  readonly zeros: string;
  readonly groups: string;
}

/** Tensors that make a matrix. */
interface Parts {
  readonly codes: TensorEntry;
  readonly scales: TensorEntry;
  readonly zeros: TensorEntry | undefined;
  readonly groups: TensorEntry | undefined;
}

/** Shapes of what belongs to a matrix `[rows, cols]`. */
interface Shapes {
  readonly rows: number;
  readonly cols: number;
  readonly scales: readonly number[];
  readonly zeros: readonly number[];
}

/**
 * The checkpoint with each quantised linear as one matrix `NAME.weight`, which the native loader makes of codes, scales and
 * zero points. Blocks keep the codes of four bits (Q4_0 if symmetric, else Q4_1) and symmetric ones of eight (Q8_0). Where no
 * block can, because columns are grouped in another order or codes of eight bits have zero points, the matrix is read as
 * numbers, and it is rounded to Q8_0 unless the plan wants another type. All other tensors stay.
 *
 * Scales of blocks become f16, and the minima `-scale * zero` of Q4_1, too; symmetric codes with f16 scales are exact.
 *
 * @throws ERR_TENSOR_MISMATCH for a tensor that is missing, or has another dtype or shape than the scheme says;
 *   ERR_MODEL_CORRUPT for a group of columns that there is not
 */
export async function blocksOfCodes(
  checkpoint: Checkpoint,
  scheme: QuantizationScheme,
): Promise<Checkpoint> {
  const suffixes = suffixesOf(scheme);
  const tensors = new Map(checkpoint.tensors);
  for (const [name, codes] of checkpoint.tensors) {
    if (!name.endsWith(suffixes.codes) || (scheme.isWide && codes.dtype !== "I8")) continue;
    const module = name.slice(0, -suffixes.codes.length);
    for (const suffix of Object.values(suffixes)) tensors.delete(module + suffix);
    tensors.set(`${module}.weight`, await matrixOf(checkpoint, module, scheme));
  }
  return { files: checkpoint.files, tensors };
}

function suffixesOf({ method, isWide }: QuantizationScheme): Suffixes {
  if (method !== "compressed-tensors") {
    return { codes: ".qweight", scales: ".scales", zeros: ".qzeros", groups: ".g_idx" };
  }
  const codes = isWide ? ".weight" : ".weight_packed";
  const [scales, zeros, groups] = [".weight_scale", ".weight_zero_point", ".weight_g_idx"];
  return { codes, scales, zeros, groups };
}

async function matrixOf(
  checkpoint: Checkpoint,
  module: string,
  scheme: QuantizationScheme,
): Promise<TensorEntry> {
  const { codes, scales, zeros, groups } = partsOf(checkpoint, module, scheme);
  const { rows, cols } = shapesOf(codes, scheme);
  const groupSize = scheme.groupSize ?? cols;
  const columnGroups = groups && (await readColumnGroups(groups, cols, groupSize));
  const blocks = columnGroups === undefined ? blocksThatKeep(scheme) : undefined;
  const quantized: GroupQuantized = {
    storage: storageOf(scheme),
    readAs: blocks ?? "F32",
    bits: scheme.bits,
    groupSize,
    ...(columnGroups !== undefined && { columnGroups }),
    isSymmetric: scheme.symmetric ? 1 : 0,
    tensorRows: rows,
    scaleCount: product(scales),
    scales: placeOf(scales),
    ...(zeros !== undefined && { zeros: placeOf(zeros) }),
    zeroShift: scheme.zeroShift,
  };
  const dtype = blocks ?? "Q8_0";
  return { ...codes, name: `${module}.weight`, dtype, shape: [rows, cols], quantized };
}

/** The tensors of a linear, with the dtypes and shapes that the scheme wants. */
function partsOf(checkpoint: Checkpoint, module: string, scheme: QuantizationScheme): Parts {
  const suffixes = suffixesOf(scheme);
  const isCompressed = scheme.method === "compressed-tensors";
  const integers = [scheme.isWide ? "I8" : "I32"];
  const codes = expectTensor(checkpoint, module + suffixes.codes, integers);
  const scales = expectTensor(checkpoint, module + suffixes.scales, ["F16", "BF16", "F32"]);
  const { cols, ...shapes } = shapesOf(codes, scheme);
  if (!isCompressed || product(scales) !== 1) checkShape(scales, shapes.scales);
  const zeros = hasZeros(scheme)
    ? expectTensor(checkpoint, module + suffixes.zeros, integers)
    : undefined;
  if (zeros !== undefined) checkShape(zeros, shapes.zeros);
  const isOrdered =
    scheme.hasColumnGroups || (isCompressed && checkpoint.tensors.has(module + suffixes.groups));
  const groups = isOrdered
    ? expectTensor(checkpoint, module + suffixes.groups, ["I32"])
    : undefined;
  if (groups !== undefined) checkShape(groups, [cols]);
  return { codes, scales, zeros, groups };
}

/** The type of blocks that hold the codes as they are; undefined: there is none. */
function blocksThatKeep({
  bits,
  symmetric,
}: QuantizationScheme): Exclude<GroupQuantized["readAs"], "F32"> | undefined {
  if (bits === 8) return symmetric ? "Q8_0" : undefined;
  return symmetric ? "Q4_0" : "Q4_1";
}

/** GPTQ and AWQ write zero points even where they are all the same. */
function hasZeros({ method, symmetric }: QuantizationScheme): boolean {
  return method !== "compressed-tensors" || !symmetric;
}

/**
 * The group of each column; undefined where groups are columns that follow each other.
 * @throws ERR_MODEL_CORRUPT
 */
async function readColumnGroups(
  { name, file, offset }: TensorEntry,
  cols: number,
  groupSize: number,
): Promise<Int32Array | undefined> {
  const bytes = await readBytes(file, offset, 4 * cols);
  const groups = Int32Array.from({ length: cols }, (_, col) => bytes.getInt32(4 * col, true));
  // compressed-tensors: never set.
  if (groups.includes(-1)) return undefined;
  const count = cols / groupSize;
  const wrong = groups.find((group) => group < 0 || group >= count);
  if (wrong === undefined) {
    return groups.every((group, col) => group === Math.floor(col / groupSize)) ? undefined : groups;
  }
  const message = `Expected groups from 0 to ${count - 1} in tensor ${name} but received ${wrong}`;
  throw new PagodaError("ERR_MODEL_CORRUPT", message, { details: { tensor: name } });
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
    throw tensorMismatch(codes, `codes of rows of whole groups of ${size} columns (32 at least)`);
  }
  const zeroRows = rows / perWord;
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

function product({ shape }: TensorEntry): number {
  return shape.reduce((total, size) => total * size, 1);
}
