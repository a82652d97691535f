import { TextDecoder } from "node:util";
import { describe } from "../../errors.js";
import type { HeaderReader } from "./header-reader.js";

/** An array that was checked and passed over: where its elements lie in the file. */
export interface ArrayRegion {
  /** `string`, or a type of numbers. */
  readonly elementType: string;
  readonly length: number;
  /** Bytes from the start of the file to the first element. */
  readonly offset: number;
  readonly bytes: number;
}

/** Numbers of short arrays are at hand; strings and long arrays stay in the file. */
export type MetadataValue = number | boolean | string | readonly number[] | ArrayRegion;

export type Metadata = ReadonlyMap<string, MetadataValue>;

interface ScalarType {
  readonly name: string;
  readonly bytes: number;
  readonly read: (view: DataView, offset: number) => number | bigint;
}

/** The types of the format by number; `bool` is a byte, `string` and `array` (8, 9) have no fixed length. */
const scalarTypes: readonly (ScalarType | undefined)[] = [
  { name: "u8", bytes: 1, read: (view, at) => view.getUint8(at) },
  { name: "i8", bytes: 1, read: (view, at) => view.getInt8(at) },
  { name: "u16", bytes: 2, read: (view, at) => view.getUint16(at, true) },
  { name: "i16", bytes: 2, read: (view, at) => view.getInt16(at, true) },
  { name: "u32", bytes: 4, read: (view, at) => view.getUint32(at, true) },
  { name: "i32", bytes: 4, read: (view, at) => view.getInt32(at, true) },
  { name: "f32", bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  { name: "bool", bytes: 1, read: (view, at) => view.getUint8(at) },
  undefined,
  undefined,
  { name: "u64", bytes: 8, read: (view, at) => view.getBigUint64(at, true) },
  { name: "i64", bytes: 8, read: (view, at) => view.getBigInt64(at, true) },
  { name: "f64", bytes: 8, read: (view, at) => view.getFloat64(at, true) },
];
const stringType = 8;
const arrayType = 9;

/** The format's own limit. */
const maxKeyBytes = 65_535;
/** Longer texts are passed over; a chat template has a few KB. */
const maxTextBytes = 2 ** 20;
/** Numbers of longer arrays stay in the file; a model has an array with a number a layer at most. */
const maxNumbers = 4096;
/** Far above any vocabulary. */
const maxArrayLength = 2 ** 24;
const maxEntries = 65_536;
/** A key of one byte, its length, its type and a value of one byte. */
const minEntryBytes = 14;

/**
 * Reads `count` keys and their values. @throws ERR_MODEL_CORRUPT for what breaks the format, among
 * it keys that occur twice; ERR_MODEL_UNSUPPORTED for arrays of arrays
 */
export async function readMetadata(reader: HeaderReader, count: number): Promise<Metadata> {
  if (count > maxEntries || count * minEntryBytes > reader.remaining) {
    throw reader.corrupt(`${count} keys of metadata do not fit the file`);
  }
  const metadata = new Map<string, MetadataValue>();
  for (let i = 0; i < count; i++) {
    const key = await readName(reader, "a key of the metadata", maxKeyBytes);
    if (metadata.has(key)) throw reader.corrupt(`the key ${describe(key)} occurs twice`);
    await reader.need(4);
    metadata.set(key, await readValue(reader, key, reader.u32()));
  }
  return metadata;
}

/** A short text that must be UTF-8. `what` names it in errors. */
export async function readName(
  reader: HeaderReader,
  what: string,
  maxBytes: number,
): Promise<string> {
  await reader.need(8);
  const length = reader.u64();
  if (length === 0 || length > maxBytes) {
    throw reader.corrupt(`${what} has ${length} bytes, allowed are 1 to ${maxBytes}`);
  }
  await reader.need(length);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(reader.bytes(length));
  } catch {
    throw reader.corrupt(`${what} is not UTF-8`);
  }
}

async function readValue(reader: HeaderReader, key: string, type: number): Promise<MetadataValue> {
  if (type === stringType) return readText(reader);
  if (type === arrayType) return readArray(reader, key);
  const scalar = scalarType(reader, key, type);
  await reader.need(scalar.bytes);
  const [value] = decodeNumbers(reader, key, scalar, 1);
  return scalar.name === "bool" ? value === 1 : value!;
}

function scalarType(reader: HeaderReader, key: string, type: number): ScalarType {
  const scalar = scalarTypes[type];
  if (scalar !== undefined) return scalar;
  throw reader.corrupt(`the key ${describe(key)} has the unknown type ${type}`);
}

/** The text, or where it lies when it is long. */
async function readText(reader: HeaderReader): Promise<string | ArrayRegion> {
  await reader.need(8);
  const length = reader.u64();
  if (length > maxTextBytes) {
    const region = { elementType: "u8", length, offset: reader.position, bytes: length };
    reader.skip(length);
    return region;
  }
  await reader.need(length);
  return reader.bytes(length).toString("utf8");
}

async function readArray(
  reader: HeaderReader,
  key: string,
): Promise<readonly number[] | ArrayRegion> {
  await reader.need(12);
  const type = reader.u32();
  const length = reader.u64();
  if (type === arrayType) {
    throw reader.unsupported(`an array of arrays (${describe(key)})`);
  }
  if (length > maxArrayLength || length > reader.remaining) {
    throw reader.corrupt(`the array ${describe(key)} of ${length} elements does not fit the file`);
  }
  const offset = reader.position;
  if (type === stringType) {
    await skipStrings(reader, length);
    return { elementType: "string", length, offset, bytes: reader.position - offset };
  }
  const scalar = scalarType(reader, key, type);
  const bytes = length * scalar.bytes;
  if (length <= maxNumbers) {
    await reader.need(bytes);
    return decodeNumbers(reader, key, scalar, length);
  }
  reader.skip(bytes);
  return { elementType: scalar.name, length, offset, bytes };
}

async function skipStrings(reader: HeaderReader, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    if (!reader.has(8)) await reader.need(8);
    reader.skip(reader.u64());
  }
}

function decodeNumbers(
  reader: HeaderReader,
  key: string,
  { name, bytes, read }: ScalarType,
  count: number,
): number[] {
  const { buffer, byteOffset, byteLength } = reader.bytes(count * bytes);
  const view = new DataView(buffer, byteOffset, byteLength);
  return Array.from({ length: count }, (_, i) => {
    const value = Number(read(view, i * bytes));
    if (name === "bool" && value > 1) throw reader.corrupt(`${describe(key)} is not a boolean`);
    if (Math.abs(value) < 2 ** 53 || name.startsWith("f")) return value;
    throw reader.corrupt(`the number ${describe(key)} is not below 2^53`);
  });
}
