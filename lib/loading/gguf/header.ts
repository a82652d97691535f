import type { FileHandle } from "node:fs/promises";
import { describe } from "../../errors.js";
import { blockFormat, fileDtypes, isFileDtype } from "../../graph/dtypes.js";
import type { CheckpointFile, TensorEntry } from "../safetensors-header.js";
import { HeaderReader } from "./header-reader.js";
import { readMetadata, readName, type Metadata } from "./metadata.js";
import { tensorTypeName } from "./tensor-types.js";

/** What stands before the weights of a GGUF file, checked. */
export interface GgufHeader {
  readonly file: CheckpointFile;
  readonly metadata: Metadata;
  /** By their names in the file; shapes as in Hugging Face, the longest stride first. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

const magic = 0x46554747; // "GGUF", little-endian
const supportedVersions: ReadonlySet<number> = new Set([2, 3]);
const magicBytes = 24;

const maxTensors = 65_536;
const maxDimensions = 4;
const maxNameBytes = 1024;
/** Of one tensor: a name of one byte and its length, one dimension, its count, type and offset. */
const minTensorBytes = 33;
const maxAlignment = 2 ** 20;

/**
 * Reads the header of a GGUF file, version 2 or 3, little-endian. Every count, length and offset is
 * held against the size of the file before anything is done with it. No weight is read.
 *
 * @throws ERR_MODEL_CORRUPT with `details.file` and `details.reason` for what breaks the format;
 * ERR_MODEL_UNSUPPORTED for other versions, big-endian files and other tensor types.
 */
export async function readGgufHeader(
  handle: FileHandle,
  file: CheckpointFile,
): Promise<GgufHeader> {
  const reader = new HeaderReader(handle, file);
  await reader.need(magicBytes);
  if (reader.u32() !== magic) throw reader.corrupt('the file does not begin with "GGUF"');
  checkVersion(reader, reader.u32());
  const numTensors = reader.u64();
  const numKeys = reader.u64();
  const metadata = await readMetadata(reader, numKeys);
  const infos = await readTensorInfos(reader, numTensors);
  const entries = placeTensors(reader, infos, readAlignment(reader, metadata));
  return { file, metadata, tensors: new Map(entries.map((entry) => [entry.name, entry])) };
}

function checkVersion(reader: HeaderReader, version: number): void {
  if (supportedVersions.has(version)) return;
  const isSwapped = version > 0xffff && (version & 0xffff) === 0;
  throw reader.unsupported(isSwapped ? "big-endian data" : `version ${version} of the format`);
}

/** A tensor whose offset counts from the start of the data. */
type TensorInfo = Omit<TensorEntry, "file">;

async function readTensorInfos(reader: HeaderReader, count: number): Promise<TensorInfo[]> {
  if (count > maxTensors || count * minTensorBytes > reader.remaining) {
    throw reader.corrupt(`${count} tensors do not fit the file`);
  }
  const infos: TensorInfo[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const info = await readTensorInfo(reader);
    if (names.has(info.name)) throw reader.corrupt(`tensor ${describe(info.name)} occurs twice`);
    names.add(info.name);
    infos.push(info);
  }
  return infos;
}

async function readTensorInfo(reader: HeaderReader): Promise<TensorInfo> {
  const name = await readName(reader, "the name of a tensor", maxNameBytes);
  await reader.need(4);
  const rank = reader.u32();
  if (rank < 1 || rank > maxDimensions) {
    throw reader.corrupt(`tensor ${describe(name)} has ${rank} dimensions`);
  }
  await reader.need(8 * rank + 12);
  const dimensions = Array.from({ length: rank }, () => reader.u64());
  const dtype = tensorTypeName(reader.u32());
  const offset = reader.u64();
  if (!isFileDtype(dtype)) {
    throw reader.unsupported(`the type ${dtype} of tensor ${describe(name)}`, fileDtypes);
  }
  const block = blockFormat(dtype);
  const rowLength = dimensions[0]!;
  if (rowLength % block.columns !== 0) {
    const rows = `rows of ${rowLength}, not a multiple of the ${block.columns} of ${dtype}`;
    throw reader.corrupt(`tensor ${describe(name)} has ${rows}`);
  }
  const bytes = (rowLength / block.columns) * block.bytes;
  const total = dimensions.slice(1).reduce((product, size) => product * size, bytes);
  if (total === 0 || !(total <= reader.file.bytes)) {
    const shape = dimensions.join(", ");
    throw reader.corrupt(`tensor ${describe(name)} of shape [${shape}] does not fit the file`);
  }
  return { name, dtype, shape: dimensions.reverse(), offset, bytes: total };
}

function readAlignment(reader: HeaderReader, metadata: Metadata): number {
  const value = metadata.get("general.alignment") ?? 32;
  const isPower = typeof value === "number" && value >= 1 && (value & (value - 1)) === 0;
  if (isPower && Number.isInteger(value) && value <= maxAlignment) return value;
  throw reader.corrupt("`general.alignment` is not a power of two up to 2^20");
}

/** Checks that each tensor is aligned, inside the file, and overlaps no other. */
function placeTensors(
  reader: HeaderReader,
  infos: readonly TensorInfo[],
  alignment: number,
): TensorEntry[] {
  const { file } = reader;
  const start = Math.ceil(reader.position / alignment) * alignment;
  const sorted = infos.toSorted((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { name, offset, bytes } of sorted) {
    const data = `the data of tensor ${describe(name)}`;
    if (offset % alignment !== 0) {
      throw reader.corrupt(`${data} is not aligned to ${alignment} bytes`);
    }
    if (offset < end) throw reader.corrupt(`${data} overlaps the tensor before it`);
    end = offset + bytes;
    if (start + end > file.bytes) throw reader.corrupt(`${data} ends beyond the file`);
  }
  return sorted.map(({ name, dtype, shape, offset, bytes }) => {
    return { name, dtype, shape, file: file.path, offset: start + offset, bytes };
  });
}
