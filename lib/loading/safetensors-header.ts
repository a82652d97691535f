import { PagodaError } from "../errors.js";
import type { FilePlace, GroupQuantized } from "../native.js";
import { JsonScanner, JsonSyntaxError } from "./json-scanner.js";

/** One tensor of a checkpoint, where its bytes lie. */
export interface TensorEntry {
  readonly name: string;
  /** As in the file, e.g. `F32`, `F16` or `BF16`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Absolute path. */
  readonly file: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
  /** Where the file holds codes, and `dtype` and `shape` are those of the matrix that becomes of them. */
  readonly quantized?: GroupQuantized;
  /** Of codes of MXFP4: their exponents, `[..., rows, cols / 32]`; `dtype` and `shape` are those of the matrices. */
  readonly exponents?: FilePlace;
}

/** A checkpoint file. */
export interface CheckpointFile {
  /** Absolute path. */
  readonly path: string;
  readonly bytes: number;
}

/** The length of the header, little-endian, stands before it. */
export const lengthBytes = 8;

/** Bits of one element of every dtype that the format knows. */
const bitsOfDtype: ReadonlyMap<string, number> = new Map([
  ...entriesOf(4, ["F4"]),
  ...entriesOf(6, ["F6_E2M3", "F6_E3M2"]),
  ...entriesOf(8, ["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"]),
  ...entriesOf(8, ["F8_E4M3FNUZ", "F8_E5M2FNUZ"]),
  ...entriesOf(16, ["U16", "I16", "F16", "BF16"]),
  ...entriesOf(32, ["U32", "I32", "F32"]),
  ...entriesOf(64, ["U64", "I64", "F64", "C64"]),
]);

function entriesOf(bits: number, names: readonly string[]): [string, number][] {
  return names.map((name) => [name, bits]);
}

/** More dimensions than any tensor has; bounds the work on one entry. */
const maxRank = 16;

export function corrupt(path: string, reason: string, cause?: unknown): PagodaError {
  return new PagodaError("ERR_MODEL_CORRUPT", `${path}: ${reason}`, {
    details: { file: path, reason },
    ...(cause === undefined ? {} : { cause }),
  });
}

/**
 * Parses the JSON header of a safetensors file, without its 8 length bytes, in the order of the
 * data. Every rule of the format is checked: valid UTF-8, `{` first, no duplicate or unknown key,
 * plain integers, known dtypes, lengths that agree with shapes, and data that is covered from its
 * first byte to its last without hole or overlap.
 *
 * @throws ERR_MODEL_CORRUPT with `details.file` and `details.reason`.
 */
export function parseSafetensorsHeader(header: Uint8Array, file: CheckpointFile): TensorEntry[] {
  return checkLayout([...scanHeader(header, file)], header.length, file);
}

/** Yields the entries in the order of the header; {@link checkLayout} must see all of them. */
export function* scanHeader(
  header: Uint8Array,
  file: CheckpointFile,
): Generator<TensorEntry, void, void> {
  try {
    const scanner = new JsonScanner(decodeUtf8(header));
    for (const name of scanner.keys()) {
      if (name === "__metadata__") scanMetadata(scanner);
      else yield scanTensor(scanner, name, header.length, file);
    }
    scanner.end();
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    throw corrupt(file.path, `the header is not valid: ${error.message}`, error);
  }
}

function decodeUtf8(header: Uint8Array): string {
  if (header[0] !== 0x7b) throw new JsonSyntaxError('expected "{" as its first byte');
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
  } catch {
    throw new JsonSyntaxError("it is not UTF-8");
  }
}

function scanMetadata(scanner: JsonScanner): void {
  for (const _ of scanner.keys()) scanner.string();
}

function scanTensor(
  scanner: JsonScanner,
  name: string,
  headerBytes: number,
  file: CheckpointFile,
): TensorEntry {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  for (const key of scanner.keys()) {
    if (key === "dtype") dtype = scanner.string();
    else if (key === "shape") shape = scanIntegers(scanner, maxRank);
    else if (key === "data_offsets") offsets = scanIntegers(scanner, 2);
    else throw new JsonSyntaxError(`tensor ${quote(name)} has the unknown key ${quote(key)}`);
  }
  const [begin, end] = offsets ?? [];
  if (dtype === undefined || shape === undefined || begin === undefined || end === undefined) {
    throw new JsonSyntaxError(`tensor ${quote(name)} lacks dtype, shape or two data_offsets`);
  }
  const bytes = byteLength(name, dtype, shape);
  if (end < begin || end - begin !== bytes) {
    throw new JsonSyntaxError(
      `tensor ${quote(name)} of ${bytes} bytes has data_offsets [${begin}, ${end}]`,
    );
  }
  return { name, dtype, shape, file: file.path, offset: lengthBytes + headerBytes + begin, bytes };
}

function scanIntegers(scanner: JsonScanner, maxLength: number): number[] {
  const values: number[] = [];
  for (const index of scanner.items()) {
    if (index >= maxLength) throw scanner.fail(`at most ${maxLength} integers`);
    values.push(scanner.unsigned());
  }
  return values;
}

/** Bytes of a tensor, perhaps not a whole number of them; every intermediate product stays a safe integer or is refused. */
function byteLength(name: string, dtype: string, shape: readonly number[]): number {
  const bits = bitsOfDtype.get(dtype);
  if (bits === undefined) {
    throw new JsonSyntaxError(`tensor ${quote(name)} has the unknown dtype ${quote(dtype)}`);
  }
  const total = shape.reduce((product, size) => {
    const next = product * size;
    if (Number.isSafeInteger(next)) return next;
    throw new JsonSyntaxError(`the shape of tensor ${quote(name)} overflows`);
  }, bits);
  return total / 8;
}

/** Sorts the entries by offset and checks that they cover the data exactly. */
export function checkLayout(
  entries: TensorEntry[],
  headerBytes: number,
  file: CheckpointFile,
): TensorEntry[] {
  entries.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let next = lengthBytes + headerBytes;
  for (const { name, offset, bytes } of entries) {
    if (offset !== next) {
      const fault = offset < next ? "overlaps the tensor before it" : "leaves a hole before it";
      throw corrupt(file.path, `the data of tensor ${quote(name)} ${fault}`);
    }
    next = offset + bytes;
  }
  if (next === file.bytes) return entries;
  throw corrupt(file.path, `the tensors end at byte ${next} but the file has ${file.bytes} bytes`);
}

function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
