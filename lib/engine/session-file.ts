import { createHash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { argumentError, assert, PagodaError } from "../errors.js";
import { abortError } from "./abort.js";
import { JsonBounds } from "./json-bounds.js";
import { rechunk } from "./rechunk.js";
import {
  chunkBytes,
  chunkDigest,
  decodeHead,
  digestBytes,
  encodeHead,
  parsePreamble,
  preambleBytes,
  sessionCorrupt,
  type SessionHeader,
  type SessionLayout,
} from "./session-format.js";

/** An open session file whose header has been verified. */
export interface SessionFile {
  readonly header: SessionHeader;
  /**
   * The KV bytes from the start, in pieces of at most 1 MiB, each verified before it is given out.
   * @throws ERR_SESSION_CORRUPT, ERR_SESSION_NOT_FOUND (it cannot be read), ERR_ABORTED
   */
  readKv(options?: { signal?: AbortSignal }): AsyncGenerator<Uint8Array, void, void>;
  /** Idempotent. */
  close(): Promise<void>;
}

/**
 * Writes a session file, readable by its owner alone. The target is replaced at once when all is on the disk; until then,
 * and on any failure, it stays as it was.
 *
 * @param chunks - `numBlocks * kvBlockBytes` bytes in pieces of any size; the source is ended when writing fails
 * @throws ERR_ARGUMENT, ERR_SESSION_WRITE, ERR_ABORTED, and what `chunks` throws
 */
export async function writeSessionFile(
  path: string,
  header: SessionHeader,
  chunks: AsyncIterable<Uint8Array>,
  { signal }: { signal?: AbortSignal } = {},
): Promise<void> {
  const target = checkPath(path);
  const head = encodeHead(header);
  throwIfAborted(signal);
  const temporary = join(dirname(target), `.pagoda-${randomBytes(8).toString("hex")}.tmp`);
  try {
    const handle = await open(temporary, "wx", 0o600);
    try {
      await writeAndSync(handle, head, header, chunks, signal);
      throwIfAborted(signal);
      await rename(temporary, target);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException | undefined)?.syscall === undefined) throw cause;
    const message = `${target} cannot be written: ${(cause as Error).message}`;
    throw new PagodaError("ERR_SESSION_WRITE", message, { cause, details: { path: target } });
  }
}

async function writeAndSync(
  handle: FileHandle,
  head: Buffer,
  { numBlocks, kvBlockBytes }: SessionHeader,
  chunks: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    const headDigest = await writeHead(handle, head, signal);
    let [index, bytes] = [0, 0];
    for await (const chunk of rechunk(chunks, chunkBytes)) {
      throwIfAborted(signal);
      await handle.writeFile(chunk);
      await handle.writeFile(chunkDigest(headDigest, index++, chunk));
      bytes += chunk.length;
    }
    assert(bytes === numBlocks * kvBlockBytes, `${numBlocks} blocks have ${bytes} bytes`);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Returns the digest, which it has written, too. */
async function writeHead(
  handle: FileHandle,
  head: Buffer,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const hash = createHash("sha256");
  for (let at = 0; at < head.length; at += chunkBytes) {
    throwIfAborted(signal);
    const slice = head.subarray(at, at + chunkBytes);
    hash.update(slice);
    await handle.writeFile(slice);
  }
  const digest = hash.digest();
  await handle.writeFile(digest);
  return digest;
}

/**
 * Opens a session file. Its size, its header and the digest of the header are verified; KV bytes are, when they are read.
 * Blocks of another layout are no error: see `fitsExecutor`.
 *
 * @param options.fingerprint - of the model at hand; when it is given, a session of another model is refused
 * @throws ERR_ARGUMENT, ERR_SESSION_NOT_FOUND, ERR_SESSION_CORRUPT, ERR_SESSION_MISMATCH, ERR_ABORTED
 */
export async function openSessionFile(
  path: string,
  options: { fingerprint?: string; signal?: AbortSignal } = {},
): Promise<SessionFile> {
  const { fingerprint, signal } = options;
  const file = checkPath(path);
  throwIfAborted(signal);
  // Without O_NONBLOCK, opening a pipe would wait for its writer.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK;
  const handle = await readable(file, () => open(file, flags));
  try {
    const layout = await readLayout(handle, file);
    const { head, digest } = await readHead(handle, file, layout, signal);
    const header = decodeHead(head, file, layout);
    if (fingerprint !== undefined) checkModel(header, file, fingerprint);
    return {
      header,
      readKv: (reading = {}) => readChunks(handle, file, layout, digest, reading.signal),
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function checkModel({ fingerprint }: SessionHeader, file: string, expected: string): void {
  if (fingerprint === expected) return;
  throw new PagodaError("ERR_SESSION_MISMATCH", `${file} is a session of another model`, {
    details: { file, expected, received: fingerprint },
  });
}

async function readLayout(handle: FileHandle, file: string): Promise<SessionLayout> {
  const stats = await readable(file, () => handle.stat());
  if (!stats.isFile()) throw notFound(file, "is not a file");
  if (stats.size < preambleBytes) throw sessionCorrupt(file, `it has ${stats.size} bytes`);
  const preamble = Buffer.alloc(preambleBytes);
  await readFully(handle, file, preamble, 0);
  return parsePreamble(preamble, file, stats.size);
}

/** The head and its digest, which agree; the JSON in it is within its bounds. */
async function readHead(
  handle: FileHandle,
  file: string,
  { headBytes, jsonBytes }: SessionLayout,
  signal: AbortSignal | undefined,
): Promise<{ head: Buffer; digest: Buffer }> {
  const head = Buffer.alloc(headBytes);
  const hash = createHash("sha256");
  const bounds = new JsonBounds();
  const jsonEnd = preambleBytes + jsonBytes;
  for (let at = 0; at < headBytes; at += chunkBytes) {
    throwIfAborted(signal);
    const slice = head.subarray(at, at + chunkBytes);
    await readFully(handle, file, slice, at);
    hash.update(slice);
    const json = head.subarray(Math.max(at, preambleBytes), Math.min(at + chunkBytes, jsonEnd));
    if (!bounds.accept(json)) throw sessionCorrupt(file, "its header has too many values");
  }
  const digest = Buffer.alloc(digestBytes);
  await readFully(handle, file, digest, headBytes);
  if (!hash.digest().equals(digest)) throw sessionCorrupt(file, "the checksum of its header");
  return { head, digest };
}

async function* readChunks(
  handle: FileHandle,
  file: string,
  { headBytes, numBlocks, kvBlockBytes }: SessionLayout,
  headDigest: Buffer,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, void> {
  let position = headBytes + digestBytes;
  let remaining = numBlocks * kvBlockBytes;
  for (let index = 0; remaining > 0; index++) {
    throwIfAborted(signal);
    const length = Math.min(chunkBytes, remaining);
    const sealed = Buffer.alloc(length + digestBytes);
    await readFully(handle, file, sealed, position);
    const chunk = sealed.subarray(0, length);
    if (!chunkDigest(headDigest, index, chunk).equals(sealed.subarray(length))) {
      throw sessionCorrupt(file, `the checksum of chunk ${index} of its KV blocks`);
    }
    yield chunk;
    position += sealed.length;
    remaining -= length;
  }
}

async function readFully(
  handle: FileHandle,
  file: string,
  into: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await readable(file, () =>
      handle.read(into, done, into.length - done, position + done),
    );
    if (bytesRead === 0) throw sessionCorrupt(file, "it has become shorter");
    done += bytesRead;
  }
}

async function readable<T>(file: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw notFound(file, `cannot be read: ${(cause as Error).message}`, cause);
  }
}

function notFound(path: string, what: string, cause?: unknown): PagodaError {
  return new PagodaError("ERR_SESSION_NOT_FOUND", `${path} ${what}`, {
    details: { path },
    ...(cause === undefined ? {} : { cause }),
  });
}

function checkPath(path: string): string {
  if (typeof path === "string" && path !== "" && !path.includes("\0")) return resolve(path);
  throw argumentError("path", "the path of a file", path);
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}
