import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { PagodaError } from "../errors.js";
import type { ConfigReader } from "./config.js";
import { openModelDirectory, type ModelDirectory } from "./model-directory.js";
import {
  readExactly,
  throwIfAborted,
  withFile,
  type CheckpointFile,
  type TensorEntry,
} from "./safetensors.js";

/** Bytes that are read of each tensor. */
const headBytes = 4096;
/** Tensors that are read at a time. */
const batchSize = 32;
/** Objects and lists inside of one another; a config.json has about three levels. */
const maxDepth = 64;

/**
 * Identifies a model: SHA-256, in hex, over the fields of config.json and each tensor's name, dtype, shape and first 4 KiB.
 * A fine-tune has another one, since it changes values nearly everywhere; the same tensors in other files, other shards or
 * another order have the same one. A few milliseconds for some hundred tensors; files are never read as a whole.
 *
 * @param directory - of the model, as for `createEngine`
 * @throws ERR_ARGUMENT, ERR_MODEL_NOT_FOUND, ERR_MODEL_CORRUPT, ERR_MODEL_UNSUPPORTED, ERR_CONFIG_INVALID, ERR_ABORTED
 */
export async function modelFingerprint(
  directory: string,
  options: { signal?: AbortSignal } = {},
): Promise<string> {
  return fingerprintModel(await openModelDirectory(directory, options), options);
}

/** The same of a directory that is open already. */
export async function fingerprintModel(
  { config, checkpoint }: Pick<ModelDirectory, "config" | "checkpoint">,
  { signal }: { signal?: AbortSignal } = {},
): Promise<string> {
  const tensors = new DigestSum();
  for (const [file, entries] of entriesByFile(checkpoint.tensors.values())) {
    await readFileOf(file, (handle, opened) =>
      addTensors(tensors, entries, handle, opened, signal),
    );
  }
  return createHash("sha256")
    .update("pagoda-model-1\n")
    .update(`${canonicalConfig(config)}\n`)
    .update(tensors.bytes)
    .digest("hex");
}

function entriesByFile(entries: Iterable<TensorEntry>): Map<string, TensorEntry[]> {
  const files = new Map<string, TensorEntry[]>();
  for (const entry of entries) {
    const list = files.get(entry.file);
    if (list === undefined) files.set(entry.file, [entry]);
    else list.push(entry);
  }
  return files;
}

async function readFileOf(
  path: string,
  use: (handle: FileHandle, file: CheckpointFile) => Promise<true>,
): Promise<void> {
  if (await withFile(path, use)) return;
  throw new PagodaError("ERR_MODEL_NOT_FOUND", `${path} does not exist any more`, {
    details: { path },
  });
}

async function addTensors(
  sum: DigestSum,
  entries: readonly TensorEntry[],
  handle: FileHandle,
  file: CheckpointFile,
  signal: AbortSignal | undefined,
): Promise<true> {
  for (let start = 0; start < entries.length; start += batchSize) {
    throwIfAborted(signal);
    const batch = entries.slice(start, start + batchSize);
    const digests = await Promise.all(batch.map((entry) => digestOf(entry, handle, file)));
    for (const digest of digests) sum.add(digest);
  }
  return true;
}

/** The line of JSON ends before the first byte of data, whose number follows from the line. */
async function digestOf(
  { name, dtype, shape, offset, bytes }: TensorEntry,
  handle: FileHandle,
  file: CheckpointFile,
): Promise<Uint8Array> {
  const head = await readExactly(handle, file, offset, Math.min(bytes, headBytes));
  const line = `${JSON.stringify([name, dtype, shape])}\n`;
  return createHash("sha256").update(line).update(head).digest();
}

/** Digests in any order: their exclusive or. No two are equal, as each covers a name. */
class DigestSum {
  readonly bytes: Uint8Array = new Uint8Array(32);

  add(digest: Uint8Array): void {
    for (const [i, byte] of digest.entries()) this.bytes[i]! ^= byte;
  }
}

function canonicalConfig(config: ConfigReader): string {
  const fields = config.fields().map((field) => [field, config.raw(field)]);
  return canonicalJson(Object.fromEntries(fields), config);
}

/** JSON with the keys of every object in order, and no spaces. */
function canonicalJson(value: unknown, config: ConfigReader, depth = 0): string {
  if (depth > maxDepth) throw config.error(undefined, `at most ${maxDepth} levels`, depth);
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const inner = (item: unknown): string => canonicalJson(item, config, depth + 1);
  if (Array.isArray(value)) return `[${value.map(inner).join(",")}]`;
  const entries = Object.keys(value)
    .sort()
    .map((key) => `${JSON.stringify(key)}:${inner((value as Record<string, unknown>)[key])}`);
  return `{${entries.join(",")}}`;
}
