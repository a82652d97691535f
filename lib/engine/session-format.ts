import { createHash } from "node:crypto";
import { argumentError, PagodaError } from "../errors.js";
import type { Executor } from "./executor.js";
import { JsonBounds } from "./json-bounds.js";

/** What a session file says besides its KV blocks. */
export interface SessionHeader {
  /** Of the model, see `modelFingerprint`. */
  readonly fingerprint: string;
  /** Of the executor that the blocks come from. */
  readonly kvLayout: string;
  /** Bytes of one block. */
  readonly kvBlockBytes: number;
  /** Tokens a block. */
  readonly blockSize: number;
  /** Blocks in the file. */
  readonly numBlocks: number;
  /** Leading tokens whose K and V the blocks hold. */
  readonly numCachedTokens: number;
  /** All tokens of the session; not negative, but not compared with any vocabulary. */
  readonly tokenIds: Int32Array;
  /** Chat messages as JSON values; null where the session has none. Their fields are not looked at. */
  readonly messages: readonly unknown[] | null;
  readonly cacheSalt?: string;
  /** Name and version of the program that wrote the file. */
  readonly createdBy: string;
}

/** Bytes of the fixed fields at the start of the file. Numbers are little-endian, as all platforms of the package are. */
export const preambleBytes = 32;
export const digestBytes = 32;
/** KV bytes between two digests: what is hashed at once, in well under 5 ms. */
export const chunkBytes: number = 2 ** 20;

const magic = Buffer.from("\x89PAGODA\n", "latin1");
const formatVersion = 1;
/** Bounds memory and time that a hostile file can take. */
const maxJsonBytes = 8 * 2 ** 20;
const maxTokens = 2 ** 22;

/** Where the parts of a file lie. */
export interface SessionLayout {
  readonly jsonBytes: number;
  readonly numTokens: number;
  readonly numBlocks: number;
  readonly kvBlockBytes: number;
  /** Preamble, JSON and token ids; their digest follows. */
  readonly headBytes: number;
}

export function sessionCorrupt(file: string, reason: string, cause?: unknown): PagodaError {
  return new PagodaError("ERR_SESSION_CORRUPT", `${file}: ${reason}`, {
    details: { file, reason },
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Whether the blocks of a file can go into the KV cache of an executor of the same model. Else they are computed again. */
export function fitsExecutor(
  { kvLayout, kvBlockBytes, blockSize }: SessionHeader,
  executor: Pick<Executor, "kvLayout" | "kvBlockBytes" | "limits">,
): boolean {
  return (
    kvLayout === executor.kvLayout &&
    kvBlockBytes === executor.kvBlockBytes &&
    blockSize === executor.limits.blockSize
  );
}

/** Preamble, JSON and token ids. @throws ERR_ARGUMENT when the messages are no JSON or too many */
export function encodeHead(header: SessionHeader): Buffer {
  const { tokenIds, numBlocks, kvBlockBytes, ...rest } = header;
  if (tokenIds.length > maxTokens) {
    throw argumentError("tokenIds", `at most ${maxTokens} tokens`, tokenIds.length);
  }
  const json = encodeJson(rest);
  const preamble = Buffer.alloc(preambleBytes);
  magic.copy(preamble);
  preamble.writeUInt32LE(formatVersion, 8);
  preamble.writeUInt32LE(json.length, 12);
  preamble.writeUInt32LE(tokenIds.length, 16);
  preamble.writeUInt32LE(numBlocks, 20);
  preamble.writeBigUInt64LE(BigInt(kvBlockBytes), 24);
  const ids = new Uint8Array(tokenIds.buffer, tokenIds.byteOffset, tokenIds.byteLength);
  return Buffer.concat([preamble, json, ids]);
}

function encodeJson(fields: object): Buffer {
  let json: Buffer;
  try {
    json = Buffer.from(JSON.stringify(fields));
  } catch {
    throw argumentError("messages", "values that JSON has", "others");
  }
  if (json.length <= maxJsonBytes && new JsonBounds().accept(json)) return json;
  throw argumentError("messages", `at most ${maxJsonBytes} bytes of simple JSON`, json.length);
}

/** Checks all counts against the size of the file. @throws ERR_SESSION_CORRUPT */
export function parsePreamble(preamble: Buffer, file: string, fileBytes: number): SessionLayout {
  if (!preamble.subarray(0, magic.length).equals(magic)) {
    throw sessionCorrupt(file, "it is not a session file");
  }
  const version = preamble.readUInt32LE(8);
  if (version !== formatVersion) {
    throw sessionCorrupt(file, `its format version is ${version}, known is ${formatVersion}`);
  }
  const jsonBytes = preamble.readUInt32LE(12);
  const numTokens = preamble.readUInt32LE(16);
  const numBlocks = preamble.readUInt32LE(20);
  const kvBlockBytes = preamble.readBigUInt64LE(24);
  if (jsonBytes > maxJsonBytes) throw sessionCorrupt(file, `a header of ${jsonBytes} bytes`);
  if (numTokens > maxTokens) throw sessionCorrupt(file, `${numTokens} tokens`);
  if (numBlocks > 0 && kvBlockBytes === 0n) throw sessionCorrupt(file, "blocks of no bytes");
  const headBytes = preambleBytes + jsonBytes + 4 * numTokens;
  const kvBytes = BigInt(numBlocks) * kvBlockBytes;
  const numChunks = (kvBytes + BigInt(chunkBytes - 1)) / BigInt(chunkBytes);
  const expected = BigInt(headBytes) + kvBytes + BigInt(digestBytes) * (1n + numChunks);
  if (expected !== BigInt(fileBytes)) {
    throw sessionCorrupt(file, `it has ${fileBytes} bytes, its header says ${expected}`);
  }
  return { jsonBytes, numTokens, numBlocks, kvBlockBytes: Number(kvBlockBytes), headBytes };
}

/** Reads the head once its digest has been verified. @throws ERR_SESSION_CORRUPT, naming the field */
export function decodeHead(head: Buffer, file: string, layout: SessionLayout): SessionHeader {
  const { jsonBytes, numTokens, numBlocks, kvBlockBytes } = layout;
  const idsAt = preambleBytes + jsonBytes;
  const fields = parseJson(head.subarray(preambleBytes, idsAt), file);
  const tokenIds = new Int32Array(numTokens);
  new Uint8Array(tokenIds.buffer).set(head.subarray(idsAt));
  if (tokenIds.some((id) => id < 0)) throw sessionCorrupt(file, "a token id is negative");
  return { ...checkFields(fields, file, numTokens), tokenIds, numBlocks, kvBlockBytes };
}

function parseJson(bytes: Uint8Array, file: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw sessionCorrupt(file, "its header is not JSON", cause);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw sessionCorrupt(file, "its header is not an object");
}

function checkFields(
  fields: Readonly<Record<string, unknown>>,
  file: string,
  numTokens: number,
): Omit<SessionHeader, "tokenIds" | "numBlocks" | "kvBlockBytes"> {
  const own = (name: string): unknown => (Object.hasOwn(fields, name) ? fields[name] : undefined);
  const bad = (name: string): PagodaError => sessionCorrupt(file, `bad field \`${name}\``);
  const text = (name: string): string => {
    const value = own(name);
    if (typeof value !== "string") throw bad(name);
    return value;
  };
  const fingerprint = text("fingerprint");
  if (!/^[0-9a-f]{64}$/.test(fingerprint)) throw bad("fingerprint");
  const blockSize = own("blockSize");
  if (!isWhole(blockSize, 1, 256)) throw bad("blockSize");
  const numCachedTokens = own("numCachedTokens");
  if (!isWhole(numCachedTokens, 0, numTokens)) throw bad("numCachedTokens");
  const messages = own("messages");
  if (messages !== null && !Array.isArray(messages)) throw bad("messages");
  return {
    fingerprint,
    kvLayout: text("kvLayout"),
    blockSize,
    numCachedTokens,
    messages,
    ...(own("cacheSalt") !== undefined && { cacheSalt: text("cacheSalt") }),
    createdBy: text("createdBy"),
  };
}

function isWhole(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
}

/** Of a chunk, bound to its file and its place there. */
export function chunkDigest(headDigest: Uint8Array, index: number, chunk: Uint8Array): Buffer {
  const place = Buffer.alloc(4);
  place.writeUInt32LE(index);
  return createHash("sha256").update(headDigest).update(place).update(chunk).digest();
}
