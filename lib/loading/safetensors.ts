import { open, type FileHandle } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { PagodaError } from "../errors.js";
import { JsonScanner, JsonSyntaxError } from "./json-scanner.js";
import { checkLayout, corrupt, lengthBytes, scanHeader } from "./safetensors-header.js";
import type { CheckpointFile, TensorEntry } from "./safetensors-header.js";

export { parseSafetensorsHeader } from "./safetensors-header.js";
export type { CheckpointFile, TensorEntry } from "./safetensors-header.js";

/** The tensors of a model directory. */
export interface Checkpoint {
  readonly files: readonly CheckpointFile[];
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/** The limit of the format. */
const formatMaxHeaderBytes = 100_000_000;
/** Ours: a header holds about 100 bytes a tensor, and nothing larger is worth its memory. */
const maxHeaderBytes = 16 * 2 ** 20;
/** An index holds about 100 bytes a tensor for the whole model. */
const maxIndexBytes = 64 * 2 ** 20;
/** How long scanning may hold the event loop before it lets others run. */
const sliceMilliseconds = 4;

/**
 * Opens `model.safetensors`, or `model.safetensors.index.json` and the shards it names. Only
 * headers are read.
 *
 * @throws ERR_MODEL_NOT_FOUND when a file is missing, ERR_MODEL_CORRUPT when one breaks the
 * format, ERR_MODEL_UNSUPPORTED for a header above 16 MB, ERR_ABORTED by the signal.
 */
export async function readCheckpoint(
  directory: string,
  options: { signal?: AbortSignal } = {},
): Promise<Checkpoint> {
  const { signal } = options;
  const root = resolve(directory);
  const single = await withFile(join(root, "model.safetensors"), (handle, file) =>
    readEntries(handle, file, signal),
  );
  if (single !== undefined) return mergeFiles([single], undefined);

  const indexPath = join(root, "model.safetensors.index.json");
  const weightMap = await withFile(indexPath, (handle, file) => readIndex(handle, file, signal));
  if (weightMap === undefined) {
    throw notFound(root, "has neither model.safetensors nor model.safetensors.index.json");
  }
  const shards: FileEntries[] = [];
  for (const name of new Set(weightMap.values())) {
    const path = join(root, name);
    const shard = await withFile(path, (handle, file) => readEntries(handle, file, signal));
    if (shard === undefined) throw notFound(path, `is named by ${indexPath} but does not exist`);
    shards.push(shard);
  }
  return mergeFiles(shards, { path: indexPath, root, weightMap });
}

interface FileEntries {
  readonly file: CheckpointFile;
  readonly entries: readonly TensorEntry[];
}

interface ShardIndex {
  readonly path: string;
  readonly root: string;
  /** Tensor name to file name. */
  readonly weightMap: ReadonlyMap<string, string>;
}

/** Every tensor once, and, with an index, each one in the file that the index names. */
function mergeFiles(shards: readonly FileEntries[], index: ShardIndex | undefined): Checkpoint {
  const tensors = new Map<string, TensorEntry>();
  for (const { file, entries } of shards) {
    for (const entry of entries) {
      const first = tensors.get(entry.name);
      if (first !== undefined) {
        throw corrupt(file.path, `tensor ${JSON.stringify(entry.name)} is also in ${first.file}`);
      }
      tensors.set(entry.name, entry);
    }
  }
  for (const [name, fileName] of index?.weightMap ?? []) {
    if (tensors.get(name)?.file !== join(index!.root, fileName)) {
      throw corrupt(index!.path, `tensor ${JSON.stringify(name)} is not in ${fileName}`);
    }
  }
  return { files: shards.map(({ file }) => file), tensors };
}

/** Runs `use` on an open file; undefined when there is none. */
export async function withFile<T>(
  path: string,
  use: (handle: FileHandle, file: CheckpointFile) => Promise<T>,
): Promise<T | undefined> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, "r");
    const stats = await handle.stat();
    if (!stats.isFile()) throw notFound(path, "is not a file");
    return await use(handle, { path, bytes: stats.size });
  } catch (cause) {
    if (PagodaError.is(cause)) throw cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw notFound(path, `cannot be read: ${(cause as Error).message}`, cause);
  } finally {
    await handle?.close();
  }
}

async function readEntries(
  handle: FileHandle,
  file: CheckpointFile,
  signal: AbortSignal | undefined,
): Promise<FileEntries> {
  const headerBytes = await readHeaderLength(handle, file);
  const header = await readExactly(handle, file, lengthBytes, headerBytes);
  const entries: TensorEntry[] = [];
  await inSlices(scanHeader(header, file), signal, (entry) => entries.push(entry));
  return { file, entries: checkLayout(entries, headerBytes, file) };
}

async function readHeaderLength(handle: FileHandle, file: CheckpointFile): Promise<number> {
  if (file.bytes < lengthBytes) throw corrupt(file.path, "the file has no header");
  const length = (await readExactly(handle, file, 0, lengthBytes)).readBigUInt64LE();
  if (length > formatMaxHeaderBytes || length > file.bytes - lengthBytes) {
    throw corrupt(file.path, `a header of ${length} bytes does not fit ${file.bytes} bytes`);
  }
  if (length <= maxHeaderBytes) return Number(length);
  throw new PagodaError(
    "ERR_MODEL_UNSUPPORTED",
    `${file.path}: the header has ${length} bytes, supported are ${maxHeaderBytes}`,
    { details: { file: file.path } },
  );
}

/** @throws ERR_MODEL_CORRUPT when the file ends before `length` bytes */
export async function readExactly(
  handle: FileHandle,
  file: CheckpointFile,
  position: number,
  length: number,
): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) throw corrupt(file.path, "the file ends early");
    done += bytesRead;
  }
  return buffer;
}

async function readIndex(
  handle: FileHandle,
  file: CheckpointFile,
  signal: AbortSignal | undefined,
): Promise<Map<string, string>> {
  if (file.bytes > maxIndexBytes) {
    throw corrupt(file.path, `an index has at most ${maxIndexBytes} bytes`);
  }
  const bytes = await readExactly(handle, file, 0, file.bytes);
  const weightMap = new Map<string, string>();
  await inSlices(scanIndex(bytes, file), signal, ([tensor, shard]) => weightMap.set(tensor, shard));
  return weightMap;
}

/** Yields tensor name and file name. */
function* scanIndex(bytes: Uint8Array, file: CheckpointFile): Generator<[string, string]> {
  try {
    const scanner = new JsonScanner(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    let found = false;
    for (const key of scanner.keys()) {
      if (key !== "weight_map") {
        scanner.skip();
        continue;
      }
      found = true;
      for (const tensor of scanner.keys()) yield [tensor, plainFileName(scanner.string())];
    }
    scanner.end();
    if (!found) throw new JsonSyntaxError("weight_map is missing");
  } catch (error) {
    if (!(error instanceof JsonSyntaxError) && !(error instanceof TypeError)) throw error;
    throw corrupt(file.path, `the index is not valid: ${error.message}`, error);
  }
}

/** Shards lie beside the index: nothing that could leave the directory is a name. */
function plainFileName(name: string): string {
  // oxlint-disable-next-line no-control-regex
  if (/^[^/\\\u0000]+\.safetensors$/.test(name)) return name;
  throw new JsonSyntaxError(`${JSON.stringify(name)} is not the plain name of a shard`);
}

/** Consumes the source a few milliseconds at a time. */
async function inSlices<T>(
  source: Iterable<T>,
  signal: AbortSignal | undefined,
  consume: (value: T) => void,
): Promise<void> {
  throwIfAborted(signal);
  let deadline = performance.now() + sliceMilliseconds;
  for (const value of source) {
    consume(value);
    if (performance.now() < deadline) continue;
    await setImmediate();
    throwIfAborted(signal);
    deadline = performance.now() + sliceMilliseconds;
  }
}

/** @throws ERR_ABORTED when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new PagodaError("ERR_ABORTED", "Loading was cancelled", { cause: signal.reason });
}

function notFound(path: string, what: string, cause?: unknown): PagodaError {
  return new PagodaError("ERR_MODEL_NOT_FOUND", `${path} ${what}`, {
    details: { path },
    ...(cause === undefined ? {} : { cause }),
  });
}
