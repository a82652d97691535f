import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { rechunk } from "../../lib/engine/rechunk.js";
import { openSessionFile, writeSessionFile } from "../../lib/engine/session-file.js";
import { fitsExecutor, type SessionHeader } from "../../lib/engine/session-format.js";
import { PagodaError } from "../../lib/errors.js";
import { createRandom } from "../support/random.js";

const scratch = mkdtempSync(join(tmpdir(), "pagoda-session-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let count = 0;
const newPath = () => join(scratch, `${count++}.session`);

const fingerprint = "0123456789abcdef".repeat(4);
const kvBlockBytes = 1000;

function headerOf(fields: Partial<SessionHeader> = {}): SessionHeader {
  return {
    fingerprint,
    kvLayout: "v1 cpu/avx2",
    kvBlockBytes,
    blockSize: 4,
    numBlocks: 3,
    numCachedTokens: 0,
    tokenIds: Int32Array.of(1, 0, 2 ** 31 - 1, 7, 8, 9, 10, 11, 12),
    messages: [{ role: "user", content: 'A "text" — 名前 😀 \\' }],
    createdBy: "pagoda-llm 0.1.0",
    ...fields,
  };
}

/** Bytes without a period, which the blocks are. */
function kvOf({ numBlocks, kvBlockBytes }: SessionHeader): Uint8Array {
  const bytes = new Uint8Array(numBlocks * kvBlockBytes);
  let state = 12345;
  for (let i = 0; i < bytes.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function written(header = headerOf(), pieceBytes = 700): Promise<string> {
  const path = newPath();
  await writeSessionFile(path, header, inPieces(kvOf(header), pieceBytes));
  return path;
}

/** Opens and reads all of a file, as a restore does. */
async function readAll(path: string): Promise<{ header: SessionHeader; kv: Uint8Array }> {
  const file = await openSessionFile(path, { fingerprint });
  try {
    const pieces: Uint8Array[] = [];
    for await (const piece of file.readKv()) pieces.push(piece);
    return { header: file.header, kv: new Uint8Array(Buffer.concat(pieces)) };
  } finally {
    await file.close();
  }
}

describe("what is written", () => {
  test.each<[string, Partial<SessionHeader>, number]>([
    ["three blocks", {}, 700],
    ["a salt, and no messages", { cacheSalt: "tenant 5", messages: null }, 3000],
    ["nothing", { numBlocks: 0, tokenIds: new Int32Array(), messages: [] }, 1],
    ["chunks that end with the blocks", { numBlocks: 4, kvBlockBytes: 2 ** 19 }, 2 ** 19 + 1],
    ["several chunks and a rest", { numBlocks: 3, kvBlockBytes: 1_300_001 }, 4 * 2 ** 20],
    ["many tokens", { tokenIds: Int32Array.from({ length: 700_000 }, (_, i) => i) }, 700],
    ["ids that are a view", { tokenIds: Int32Array.of(1, 2, 3, 4).subarray(1, 3) }, 700],
    ["any JSON", { messages: [{ __proto__: null, constructor: [1, 2.5, null] }] }, 700],
  ])("is read again: %s", async (_, fields, pieceBytes) => {
    const header = headerOf(fields);
    const { tokenIds, ...rest } = header;
    const read = await readAll(await written(header, pieceBytes));
    expect(read.header).toMatchObject(rest);
    expect(Object.keys(read.header).sort()).toEqual(Object.keys(header).sort());
    expect(read.header.tokenIds).toBeInstanceOf(Int32Array);
    expect(read.header.tokenIds.join() === tokenIds.join()).toBe(true);
    expect(Buffer.compare(read.kv, kvOf(header))).toBe(0);
  });

  test("comes in chunks of 1 MiB at most, twice the same", async () => {
    const header = headerOf({ numBlocks: 5, kvBlockBytes: 600_000 });
    const file = await openSessionFile(await written(header));
    for (let i = 0; i < 2; i++) {
      const sizes: number[] = [];
      for await (const chunk of file.readKv()) sizes.push(chunk.length);
      expect(sizes).toEqual([2 ** 20, 2 ** 20, 3_000_000 - 2 ** 21]);
    }
    await file.close();
    await file.close();
  });

  test("is readable by its owner alone, and replaces what was there", async () => {
    const path = newPath();
    writeFileSync(path, "older", { mode: 0o644 });
    await writeSessionFile(path, headerOf(), inPieces(kvOf(headerOf()), 100));
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect((await readAll(path)).header).toEqual(headerOf());
    expect(readdirSync(scratch).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("has the format of docs/sessions.md, version 1", async () => {
    const bytes = readFileSync(await written());
    expect(bytes.subarray(0, 8).toString("hex")).toBe("895041474f44410a");
    expect(bytes.readUInt32LE(8)).toBe(1);
    const jsonBytes = bytes.readUInt32LE(12);
    expect([bytes.readUInt32LE(16), bytes.readUInt32LE(20)]).toEqual([9, 3]);
    expect(bytes.readBigUInt64LE(24)).toBe(1000n);
    const headBytes = 32 + jsonBytes + 4 * 9;
    const { tokenIds, numBlocks: _, kvBlockBytes: __, ...fields } = headerOf();
    expect(JSON.parse(bytes.toString("utf8", 32, 32 + jsonBytes))).toEqual(fields);
    for (const [i, id] of tokenIds.entries()) {
      expect(bytes.readInt32LE(32 + jsonBytes + 4 * i)).toBe(id);
    }
    const sha256 = (...parts: Uint8Array[]) => {
      return createHash("sha256").update(Buffer.concat(parts)).digest();
    };
    const headDigest = bytes.subarray(headBytes, headBytes + 32);
    expect(headDigest).toEqual(sha256(bytes.subarray(0, headBytes)));
    const kv = bytes.subarray(headBytes + 32, headBytes + 32 + 3000);
    expect(Buffer.compare(kv, kvOf(headerOf()))).toBe(0);
    expect(bytes.subarray(headBytes + 32 + 3000)).toEqual(sha256(headDigest, Buffer.alloc(4), kv));
    // Changes only together with the version.
    expect(sha256(bytes).toString("hex")).toBe(
      "5beb07a095d49df60181278e0bc32c66667f331294e250b89fde14d607e1ffe5",
    );
  });
});

describe("writing", () => {
  const temporaries = () => readdirSync(scratch).filter((name) => name.endsWith(".tmp"));

  test.each([0, 1, 2, 3])("cancelled after %i pieces leaves nothing behind", async (pieces) => {
    const header = headerOf({ numBlocks: 4, kvBlockBytes: 2 ** 20 });
    const controller = new AbortController();
    let isEnded = false;
    async function* source(): AsyncGenerator<Uint8Array> {
      try {
        let i = 0;
        for await (const piece of inPieces(kvOf(header), 2 ** 20)) {
          if (i++ === pieces) controller.abort(new Error("enough"));
          yield piece;
        }
      } finally {
        isEnded = true;
      }
    }
    const path = newPath();
    writeFileSync(path, "older");
    await expect(
      writeSessionFile(path, header, source(), { signal: controller.signal }),
    ).rejects.toMatchObject({ code: "ERR_ABORTED", cause: new Error("enough") });
    expect(isEnded).toBe(true);
    expect(temporaries()).toEqual([]);
    expect(readFileSync(path, "utf8")).toBe("older");
  });

  test("with a signal that has fired does not begin", async () => {
    const path = newPath();
    const signal = AbortSignal.abort();
    const writing = writeSessionFile(path, headerOf(), inPieces(kvOf(headerOf()), 9), { signal });
    await expect(writing).rejects.toMatchObject({ code: "ERR_ABORTED" });
    expect(() => statSync(path)).toThrow("ENOENT");
  });

  test("passes on what the source throws, and leaves nothing behind", async () => {
    const path = newPath();
    for (const thrown of [new PagodaError("ERR_CLOSED", "closed"), new Error("lost"), undefined]) {
      // oxlint-disable-next-line require-yield
      const source = async function* (): AsyncGenerator<Uint8Array> {
        throw thrown;
      };
      const caught = await writeSessionFile(path, headerOf(), source()).catch((error) => [error]);
      expect(caught).toEqual([thrown]);
    }
    expect(() => statSync(path)).toThrow("ENOENT");
    expect(temporaries()).toEqual([]);
  });

  test("refuses blocks that are too few or too many", async () => {
    for (const bytes of [2999, 3001]) {
      const source = inPieces(new Uint8Array(bytes), 500);
      const writing = writeSessionFile(newPath(), headerOf(), source);
      await expect(writing).rejects.toMatchObject({ code: "ERR_INTERNAL" });
    }
    expect(temporaries()).toEqual([]);
  });

  test("names the reason where it cannot write", async () => {
    const directory = join(scratch, "directory");
    mkdirSync(directory);
    for (const path of [directory, join(scratch, "missing", "a"), join(scratch, "x".repeat(300))]) {
      const writing = writeSessionFile(path, headerOf(), inPieces(kvOf(headerOf()), 99));
      await expect(writing).rejects.toMatchObject({
        code: "ERR_SESSION_WRITE",
        details: { path },
      });
    }
    expect(temporaries()).toEqual([]);
  });

  test("refuses bad arguments", async () => {
    const cycle: unknown[] = [];
    cycle.push(cycle);
    let nested: unknown = 1;
    for (let i = 0; i < 70; i++) nested = [nested];
    const cases: [string, string, Partial<SessionHeader>][] = [
      ["", "path", {}],
      ["a\0b", "path", {}],
      [newPath(), "messages", { messages: [cycle] }],
      [newPath(), "messages", { messages: [1n] }],
      [newPath(), "messages", { messages: [nested] }],
      [newPath(), "messages", { messages: Array.from({ length: 2 ** 18 }, () => 1) }],
      [newPath(), "messages", { messages: ["x".repeat(8 * 2 ** 20)] }],
      [newPath(), "tokenIds", { tokenIds: new Int32Array(2 ** 22 + 1) }],
    ];
    for (const [path, parameter, fields] of cases) {
      const writing = writeSessionFile(path, headerOf(fields), inPieces(kvOf(headerOf()), 99));
      const error = { code: "ERR_ARGUMENT", details: { parameter } };
      await expect(writing).rejects.toMatchObject(error);
    }
  });
});

describe("a file that is there", () => {
  const corrupt = (reason: RegExp) => ({
    code: "ERR_SESSION_CORRUPT",
    details: { reason: expect.stringMatching(reason) },
  });

  test("but belongs to another model is refused", async () => {
    const path = await written();
    const other = "f".repeat(64);
    await expect(openSessionFile(path, { fingerprint: other })).rejects.toMatchObject({
      code: "ERR_SESSION_MISMATCH",
      details: { file: path, expected: other, received: fingerprint },
    });
  });

  test("but has another layout is no error", async () => {
    const { header } = await readAll(await written());
    const limits = { blockSize: 4 } as never;
    const executor = { kvLayout: header.kvLayout, kvBlockBytes, limits };
    expect(fitsExecutor(header, executor)).toBe(true);
    expect(fitsExecutor(header, { ...executor, kvLayout: "v1 cpu/avx512" })).toBe(false);
    expect(fitsExecutor(header, { ...executor, kvBlockBytes: 1001 })).toBe(false);
    expect(fitsExecutor({ ...header, blockSize: 8 }, executor)).toBe(false);
  });

  test("but is none, or not to be read, is named", async () => {
    const pipe = newPath();
    execFileSync("mkfifo", [pipe]);
    const link = newPath();
    symlinkSync(link, link);
    for (const path of [join(scratch, "none"), scratch, pipe, link, "/dev/zero"]) {
      await expect(openSessionFile(path)).rejects.toMatchObject({
        code: "ERR_SESSION_NOT_FOUND",
        details: { path },
      });
    }
    await expect(openSessionFile("")).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
    await expect(openSessionFile(5 as never)).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
  });

  test("is left when the signal fires", async () => {
    const path = await written(headerOf({ numBlocks: 4, kvBlockBytes: 2 ** 20 }));
    const signal = AbortSignal.abort();
    await expect(openSessionFile(path, { signal })).rejects.toMatchObject({ code: "ERR_ABORTED" });
    const file = await openSessionFile(path);
    const controller = new AbortController();
    const reading = file.readKv({ signal: controller.signal });
    await reading.next();
    controller.abort();
    await expect(reading.next()).rejects.toMatchObject({ code: "ERR_ABORTED" });
    await file.close();
    await expect(file.readKv().next()).rejects.toMatchObject({ code: "ERR_SESSION_NOT_FOUND" });
  });

  test("but becomes shorter while it is read is corrupt", async () => {
    const path = await written(headerOf({ numBlocks: 4, kvBlockBytes: 2 ** 20 }));
    const file = await openSessionFile(path);
    truncateSync(path, 2 ** 21);
    const reading = file.readKv();
    await reading.next();
    await expect(reading.next()).rejects.toMatchObject(corrupt(/shorter/));
    await file.close();
  });

  test("cannot borrow chunks, neither from other files nor from other places", async () => {
    const header = headerOf({ numBlocks: 2, kvBlockBytes: 2 ** 20 });
    const bytes = readFileSync(await written(header));
    const other = readFileSync(await written({ ...header, createdBy: "pagoda-llm 0.1.1" }));
    const sealed = 2 ** 20 + 32;
    const start = bytes.length - 2 * sealed;
    const [first, second] = [bytes.subarray(start, start + sealed), bytes.subarray(-sealed)];
    const path = newPath();
    writeFileSync(path, Buffer.concat([bytes.subarray(0, start), second, first]));
    await expect(readAll(path)).rejects.toMatchObject(corrupt(/chunk 0/));
    writeFileSync(path, Buffer.concat([bytes.subarray(0, -sealed), other.subarray(-sealed)]));
    await expect(readAll(path)).rejects.toMatchObject(corrupt(/chunk 1/));
  });
});

/** A file whose checksums are right, whatever its preamble and JSON say. */
function forged(
  json: string | Uint8Array,
  fields: { tokens?: number[]; numBlocks?: number; blockBytes?: bigint; kv?: Uint8Array } = {},
): string {
  const { tokens = [], numBlocks = 0, blockBytes = 0n, kv = Buffer.of() } = fields;
  const bytes = Buffer.from(json as string);
  const preamble = Buffer.alloc(32);
  preamble.write("\x89PAGODA\n", "latin1");
  for (const [i, word] of [1, bytes.length, tokens.length, numBlocks].entries()) {
    preamble.writeUInt32LE(word, 8 + 4 * i);
  }
  preamble.writeBigUInt64LE(blockBytes, 24);
  const head = Buffer.concat([preamble, bytes, Buffer.from(Int32Array.from(tokens).buffer)]);
  const path = newPath();
  writeFileSync(path, Buffer.concat([head, createHash("sha256").update(head).digest(), kv]));
  return path;
}

const plain = {
  fingerprint,
  kvLayout: "v1",
  blockSize: 4,
  numCachedTokens: 0,
  messages: null,
  createdBy: "pagoda-llm 0.1.0",
};

describe("a hostile file with right checksums", () => {
  const json = (fields: object) => JSON.stringify({ ...plain, ...fields });

  test("is accepted where nothing is wrong with it", async () => {
    expect((await readAll(forged(json({ future: [1] }), { tokens: [5] }))).header).toEqual({
      ...plain,
      tokenIds: Int32Array.of(5),
      numBlocks: 0,
      kvBlockBytes: 0,
    });
  });

  test.each<[string, RegExp, string | Uint8Array, Parameters<typeof forged>[1]?]>([
    ["no JSON", /not JSON/, "{"],
    ["no JSON at all", /not JSON/, ""],
    ["no UTF-8", /not JSON/, Buffer.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d)],
    ["a list", /not an object/, "[]"],
    ["null", /not an object/, "null"],
    ["no fields", /fingerprint/, "{}"],
    ["inherited fields", /fingerprint/, `{"__proto__":${json({})}}`],
    ["a short fingerprint", /fingerprint/, json({ fingerprint: "00" })],
    ["a number for the fingerprint", /fingerprint/, json({ fingerprint: 5 })],
    ["no layout", /kvLayout/, json({ kvLayout: undefined })],
    ["a block size of 0", /blockSize/, json({ blockSize: 0 })],
    ["a block size of 1.5", /blockSize/, json({ blockSize: 1.5 })],
    ["an infinite block size", /blockSize/, json({}).replace('"blockSize":4', '"blockSize":1e999')],
    ["a block size of NaN", /not JSON/, json({}).replace('"blockSize":4', '"blockSize":NaN')],
    ["no messages", /messages/, json({ messages: undefined })],
    ["messages that are an object", /messages/, json({ messages: {} })],
    ["a salt that is no string", /cacheSalt/, json({ cacheSalt: null })],
    ["no author", /createdBy/, json({ createdBy: 1 })],
    ["negative token ids", /negative/, json({}), { tokens: [1, -1] }],
    ["deep JSON", /too many values/, json({ x: 0 }).replace("0}", "[".repeat(2 ** 20))],
    ["a million lists", /too many values/, `{"a":[${"[],".repeat(2 ** 20)}1]}`],
    ["a million keys", /too many values/, `{${'"":1,'.repeat(2 ** 20)}"a":1}`],
    ["JSON of 9 MB", /header of/, " ".repeat(9 * 2 ** 20)],
    ["more cached tokens than there are", /numCachedTokens/, json({ numCachedTokens: 1 })],
    ["a share of a cached token", /numCachedTokens/, json({ numCachedTokens: 0.5 })],
    ["blocks of no bytes", /no bytes/, json({}), { numBlocks: 2 ** 32 - 1 }],
    ["huge blocks", /bytes/, json({}), { numBlocks: 1, blockBytes: 2n ** 64n - 1n }],
    ["many huge blocks", /bytes/, json({}), { numBlocks: 2 ** 32 - 1, blockBytes: 2n ** 63n }],
    ["blocks that are not there", /bytes/, json({}), { numBlocks: 1, blockBytes: 64n }],
    ["bytes that are no blocks", /bytes/, json({}), { kv: Buffer.alloc(64) }],
    [
      "blocks without a checksum",
      /chunk 0/,
      json({}),
      { numBlocks: 1, blockBytes: 64n, kv: Buffer.alloc(96) },
    ],
  ])("is refused: %s", async (_, reason, content, fields) => {
    const startedAt = performance.now();
    await expect(readAll(forged(content, fields))).rejects.toMatchObject({
      code: "ERR_SESSION_CORRUPT",
      details: { reason: expect.stringMatching(reason) },
    });
    expect(performance.now() - startedAt).toBeLessThan(1000);
  });

  test("cannot make its reader allocate what it says", async () => {
    const huge = forged(json({}), { numBlocks: 2 ** 20, blockBytes: 2n ** 20n });
    truncateSync(huge, statSync(huge).size + 2 ** 40 + 32 * 2 ** 20); // a sparse file of that size
    const before = process.memoryUsage().arrayBuffers;
    await expect(readAll(huge)).rejects.toMatchObject({ code: "ERR_SESSION_CORRUPT" });
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(8 * 2 ** 20);
  });
});

describe("300 seeded damages", () => {
  const random = createRandom(77);
  const damages: readonly ((bytes: Buffer) => Buffer)[] = [
    (bytes) => {
      bytes[random.integer(bytes.length)]! ^= 1 << random.integer(8);
      return bytes;
    },
    (bytes) => {
      bytes[random.integer(32)]! ^= 1 << random.integer(8); // counts and lengths
      return bytes;
    },
    (bytes) => bytes.subarray(0, random.integer(bytes.length)),
    (bytes) => Buffer.concat([bytes, Buffer.alloc(1 + random.integer(100), random.integer(256))]),
    (bytes) => {
      bytes.writeUInt32LE(random.integer(2 ** 32), 8 + 4 * random.integer(6));
      return bytes;
    },
    (bytes) => {
      const [from, to] = [random.integer(bytes.length - 64), random.integer(bytes.length - 64)];
      const before = Buffer.from(bytes);
      bytes.copy(bytes, to, from, from + 1 + random.integer(64));
      if (bytes.equals(before)) bytes[to]! ^= 255;
      return bytes;
    },
  ];

  test.each([...damages.keys()])("of kind %i are all seen", async (kind) => {
    const original = readFileSync(await written(headerOf({ numBlocks: 5 })));
    const path = newPath();
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 300 / damages.length; i++) {
      const bytes = damages[kind]!(Buffer.from(original));
      writeFileSync(path, bytes);
      const startedAt = performance.now();
      await expect(readAll(path), `damage ${i}`).rejects.toMatchObject({
        code: "ERR_SESSION_CORRUPT",
        details: { file: path, reason: expect.any(String) },
      });
      expect(performance.now() - startedAt).toBeLessThan(1000);
    }
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 2 ** 20);
  });
});

describe("rechunk", () => {
  test.each([1, 3, 8, 64, 1000])("gives pieces of %i bytes, and a rest", async (size) => {
    const random = createRandom(size);
    const bytes = Uint8Array.from({ length: 200 }, (_, i) => i);
    async function* source(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.length;) {
        const end = at + random.integer(20);
        yield bytes.subarray(at, end);
        at = end;
      }
    }
    const pieces: Uint8Array[] = [];
    for await (const piece of rechunk(source(), size)) pieces.push(piece);
    expect(new Uint8Array(Buffer.concat(pieces))).toEqual(bytes);
    for (const piece of pieces.slice(0, -1)) expect(piece.length).toBe(size);
    expect(pieces.at(-1)?.length).toBeGreaterThan(0);
  });
});
