import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { readGgufHeader, type GgufHeader } from "../../../lib/loading/gguf/header.js";
import {
  bool,
  f32,
  list,
  number,
  string,
  text,
  u32,
  writeGguf,
} from "../../support/gguf-writer.js";
import type { GgufTensor, GgufValue, NumberType } from "../../support/gguf-writer.js";
import { measureLoopDelay } from "../../support/loop-delay.js";

const scratch = mkdtempSync(join(tmpdir(), "pagoda-gguf-header-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let count = 0;

async function read(bytes: Uint8Array): Promise<GgufHeader> {
  const path = join(scratch, `${count++}.gguf`);
  writeFileSync(path, bytes);
  await using handle = await open(path);
  return await readGgufHeader(handle, { path, bytes: bytes.length });
}

const code = (expected: string) => expect.objectContaining({ code: expected });
const corrupt = code("ERR_MODEL_CORRUPT");
const unsupported = code("ERR_MODEL_UNSUPPORTED");

const tensor = (name: string, shape: number[], type = 0, bytes = 32): GgufTensor => {
  return { name, shape, type, data: new Uint8Array(bytes) };
};

describe("a valid header", () => {
  test.each([2, 3])("of version %i gives metadata and tensors", async (version) => {
    const numbers: Record<string, GgufValue> = Object.fromEntries(
      (["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"] as NumberType[]).map(
        (type) => [type, { type, value: type.startsWith("i") ? -5 : 5 } as GgufValue],
      ),
    );
    const metadata = {
      ...numbers,
      yes: bool(true),
      name: text("né"),
      numbers: list("i32", [1, -2]),
      flags: list("bool", [1, 0]),
      empty: list("string", []),
      texts: list("string", ["a", "bc"]),
      __proto__key: u32(1),
    };
    const tensors = [tensor("b", [2, 3]), tensor("a", [64, 32], 8, 64 * 34), tensor("c", [4], 30)];
    const bytes = writeGguf({ metadata, tensors, version });
    const header = await read(bytes);
    const { path: file } = header.file;
    expect(Object.fromEntries(header.metadata)).toMatchObject({
      u8: 5,
      i8: -5,
      u64: 5,
      i64: -5,
      f32: 5,
      f64: 5,
      yes: true,
      name: "né",
      numbers: [1, -2],
      flags: [1, 0],
      empty: { elementType: "string", length: 0, bytes: 0 },
      texts: { elementType: "string", length: 2, bytes: 19 },
    });
    const start = bytes.length - 32 - 64 * 34 - 32;
    expect([...header.tensors.values()]).toEqual([
      { name: "b", dtype: "F32", shape: [2, 3], file, offset: start, bytes: 24 },
      { name: "a", dtype: "Q8_0", shape: [64, 32], file, offset: start + 32, bytes: 64 * 34 },
      { name: "c", dtype: "BF16", shape: [4], file, offset: bytes.length - 32, bytes: 8 },
    ]);
  });

  test("may have another alignment, and names like those of an object", async () => {
    const names = ["__proto__", "constructor", "a b", "名前"];
    const tensors = names.map((name) => tensor(name, [8]));
    const metadata = Object.fromEntries(names.map((name) => [`x.${name}`, u32(1)]));
    const header = await read(writeGguf({ metadata, tensors, alignment: 256 }));
    expect([...header.tensors.keys()]).toEqual(names);
    expect([...header.tensors.values()].map(({ offset }) => offset % 256)).toEqual([0, 0, 0, 0]);
  });

  test("passes over long texts and arrays", async () => {
    const metadata = {
      long: text("x".repeat(2 ** 20 + 1)),
      many: list("f32", Array(5000).fill(1)),
      after: u32(7),
    };
    const { metadata: found } = await read(writeGguf({ metadata }));
    expect(found.get("long")).toMatchObject({ bytes: 2 ** 20 + 1 });
    expect(found.get("many")).toMatchObject({ elementType: "f32", length: 5000, bytes: 20_000 });
    expect(found.get("after")).toBe(7);
  });
});

/** Magic, version, counts and then these bytes. */
function rawHeader(tensors: number | bigint, keys: number | bigint, ...parts: Buffer[]): Buffer {
  const start = [Buffer.from("GGUF"), number("u32", 3), number("u64", tensors)];
  return Buffer.concat([...start, number("u64", keys), ...parts, Buffer.alloc(64)]);
}

const max = 2n ** 64n - 1n;
const key = string("k");
const type = (id: number): Buffer => number("u32", id);
const tensorInfo = (
  dimensions: readonly (number | bigint)[],
  typeId = 0,
  offset: number | bigint = 0,
  name = "t",
): Buffer =>
  Buffer.concat([
    string(name),
    number("u32", dimensions.length),
    ...dimensions.map((size) => number("u64", size)),
    number("u32", typeId),
    number("u64", offset),
  ]);

test.each<[string, Buffer]>([
  ["nothing", Buffer.alloc(0)],
  ["4 bytes", Buffer.from("GGUF")],
  ["another magic", Buffer.concat([Buffer.from("GGML"), rawHeader(0, 0).subarray(4)])],
  ["2^64 - 1 keys", rawHeader(0, max)],
  ["2^53 keys", rawHeader(0, 2n ** 53n)],
  ["a million keys", rawHeader(0, 1_000_000)],
  ["2^64 - 1 tensors", rawHeader(max, 0)],
  ["a million tensors", rawHeader(1_000_000, 0)],
  ["a key of 2^64 - 1 bytes", rawHeader(0, 1, number("u64", max), Buffer.alloc(64))],
  ["a key of 100,000 bytes", rawHeader(0, 1, number("u64", 100_000), Buffer.alloc(100_000))],
  ["a key of no bytes", rawHeader(0, 1, number("u64", 0))],
  ["a key that is not UTF-8", rawHeader(0, 1, number("u64", 2), Buffer.from([0xc3, 0x28]))],
  ["a key twice", rawHeader(0, 2, key, type(0), number("u8", 1), key, type(0), number("u8", 1))],
  ["a value of an unknown type", rawHeader(0, 1, key, type(13))],
  ["a value of type 2^32 - 1", rawHeader(0, 1, key, type(2 ** 32 - 1))],
  ["a boolean of 2", rawHeader(0, 1, key, type(7), number("u8", 2))],
  ["a number of 2^53", rawHeader(0, 1, key, type(10), number("u64", 2n ** 53n))],
  ["a number of -2^63", rawHeader(0, 1, key, type(11), number("i64", -(2n ** 63n)))],
  ["a text of 2^63 bytes", rawHeader(0, 1, key, type(8), number("u64", 2n ** 63n))],
  ["a text of 1,000 bytes that are not there", rawHeader(0, 1, key, type(8), number("u64", 1000))],
  ["an array of 2^64 - 1", rawHeader(0, 1, key, type(9), type(0), number("u64", max))],
  ["an array of 2^61 u64", rawHeader(0, 1, key, type(9), type(10), number("u64", 2n ** 61n))],
  ["an array that ends early", rawHeader(0, 1, key, type(9), type(4), number("u64", 60))],
  ["an array of an unknown type", rawHeader(0, 1, key, type(9), type(99), number("u64", 1))],
  [
    "texts that end early",
    rawHeader(0, 1, key, type(9), type(8), number("u64", 1), number("u64", 2n ** 52n)),
  ],
  ["a tensor without dimensions", rawHeader(1, 0, tensorInfo([]))],
  ["a tensor of 5 dimensions", rawHeader(1, 0, tensorInfo([1, 1, 1, 1, 1]))],
  ["a tensor of no elements", rawHeader(1, 0, tensorInfo([0]))],
  ["a dimension of 2^64 - 1", rawHeader(1, 0, tensorInfo([max]))],
  ["dimensions whose product wraps", rawHeader(1, 0, tensorInfo([2n ** 32n, 2n ** 32n]))],
  ["dimensions whose product is huge", rawHeader(1, 0, tensorInfo(Array(4).fill(2n ** 52n)))],
  ["a row that is no multiple of its blocks", rawHeader(1, 0, tensorInfo([33], 8))],
  ["a tensor beyond the file", rawHeader(1, 0, tensorInfo([8], 0, 64))],
  ["an offset of 2^64 - 32", rawHeader(1, 0, tensorInfo([8], 0, max - 31n))],
  ["an offset that is not aligned", rawHeader(1, 0, tensorInfo([1], 0, 4))],
  ["tensors that overlap", rawHeader(2, 0, tensorInfo([8]), tensorInfo([8], 0, 0, "u"))],
  ["a tensor twice", rawHeader(2, 0, tensorInfo([8]), tensorInfo([8], 0, 32))],
  ["a name of 2,000 bytes", rawHeader(1, 0, tensorInfo([8], 0, 0, "x".repeat(2000)))],
  ["an alignment of 0", writeGguf({ metadata: { "general.alignment": u32(0) } })],
  ["an alignment of 24", writeGguf({ metadata: { "general.alignment": u32(24) } })],
  ["an alignment of 2^31", writeGguf({ metadata: { "general.alignment": u32(2 ** 31) } })],
  ["an alignment that is a text", writeGguf({ metadata: { "general.alignment": text("32") } })],
  ["an alignment of NaN", writeGguf({ metadata: { "general.alignment": f32(NaN) } })],
])("%s: ERR_MODEL_CORRUPT", async (_, bytes) => {
  await expect(read(bytes)).rejects.toEqual(corrupt);
});

test.each<[string, Buffer]>([
  ["version 1", writeGguf({ version: 1 })],
  ["version 4", writeGguf({ version: 4 })],
  ["big-endian data", writeGguf({ version: 0x03000000 })],
  ["an array of arrays", rawHeader(0, 1, key, type(9), type(9), number("u64", 1))],
  ["a withdrawn tensor type", rawHeader(1, 0, tensorInfo([32], 4))],
  ["a tensor type that no backend has", rawHeader(1, 0, tensorInfo([32], 20))],
  ["a tensor type of 2^32 - 1", rawHeader(1, 0, tensorInfo([32], 2 ** 32 - 1))],
])("%s: ERR_MODEL_UNSUPPORTED", async (_, bytes) => {
  await expect(read(bytes)).rejects.toEqual(unsupported);
});

test("a file that is cut anywhere in its header is refused", async () => {
  const metadata = { "general.architecture": text("llama"), n: list("string", ["a", "b"]) };
  const bytes = writeGguf({ metadata, tensors: [tensor("t", [8])] });
  for (let length = 0; length < bytes.length - 32; length++) {
    await expect(read(bytes.subarray(0, length)), `${length} bytes`).rejects.toEqual(corrupt);
  }
});

test("rows of quantised tensors are whole blocks", async () => {
  // Number, bits an element.
  const types = [
    [2, 4.5],
    [3, 5],
    [6, 5.5],
    [7, 6],
    [8, 8.5],
    [12, 4.5],
    [13, 5.5],
    [14, 6.5625],
  ] as const;
  const tensors = types.map(([type, bits]) => tensor(`t${type}`, [3, 512], type, 192 * bits));
  const { tensors: found } = await read(writeGguf({ tensors }));
  for (const [type, bits] of types) expect(found.get(`t${type}`)?.bytes).toBe(192 * bits);
});

test("the header of a large vocabulary does not hold the event loop", async () => {
  const tokens = Array.from({ length: 200_000 }, (_, i) => `token number ${i}`);
  const merges = tokens.map((token) => `${token} x`);
  const bytes = writeGguf({
    metadata: {
      "tokenizer.ggml.tokens": list("string", tokens),
      "tokenizer.ggml.scores": list("f32", Array(tokens.length).fill(1)),
      "tokenizer.ggml.merges": list("string", merges),
    },
  });
  await read(bytes); // compiles it
  const path = join(scratch, "large.gguf");
  writeFileSync(path, bytes);
  await using handle = await open(path);
  const stop = measureLoopDelay();
  let turns = 0;
  const counting = setInterval(() => turns++, 0);
  const header = await readGgufHeader(handle, { path, bytes: bytes.length });
  const delay = stop();
  clearInterval(counting);
  expect(header.metadata.get("tokenizer.ggml.tokens")).toMatchObject({ length: 200_000 });
  // Typically 2 ms: the bound leaves room for a busy machine.
  expect(delay.max).toBeLessThan(50);
  expect(turns).toBeGreaterThan(2);
});
