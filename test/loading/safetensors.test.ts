import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { parseSafetensorsHeader, readCheckpoint } from "../../lib/loading/safetensors.js";

const scratch = mkdtempSync(join(tmpdir(), "pagoda-safetensors-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let count = 0;

/** A directory with these files. */
function directoryOf(files: Readonly<Record<string, Uint8Array | string>>): string {
  const directory = join(scratch, String(count++));
  mkdirSync(directory);
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(directory, name), content);
  return directory;
}

/** A safetensors file; `length` replaces the true length of the header. */
function fileOf(header: string | Uint8Array, dataBytes = 0, length?: bigint): Buffer {
  const bytes = Buffer.from(header as string);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(bytes.length));
  return Buffer.concat([prefix, bytes, Buffer.alloc(dataBytes)]);
}

const tensor = (dtype: string, shape: number[], begin: number, end: number) =>
  ({ dtype, shape, data_offsets: [begin, end] }) as const;
const json = (tensors: object) => JSON.stringify(tensors);
const single = (content: Uint8Array) => directoryOf({ "model.safetensors": content });
const code = (expected: string) => expect.objectContaining({ code: expected });

describe("a valid file", () => {
  test("gives each tensor's place", async () => {
    const header = json({
      __metadata__: { format: "pt" },
      second: tensor("F16", [2, 3], 24, 36),
      first: tensor("F32", [2, 3], 0, 24),
      third: tensor("BF16", [1], 36, 38),
    });
    const directory = single(fileOf(header, 38));
    const file = join(directory, "model.safetensors");
    const base = 8 + header.length;
    const { files, tensors } = await readCheckpoint(directory);
    expect(files).toEqual([{ path: file, bytes: base + 38 }]);
    expect([...tensors.values()]).toEqual([
      { name: "first", dtype: "F32", shape: [2, 3], file, offset: base, bytes: 24 },
      { name: "second", dtype: "F16", shape: [2, 3], file, offset: base + 24, bytes: 12 },
      { name: "third", dtype: "BF16", shape: [1], file, offset: base + 36, bytes: 2 },
    ]);
  });

  test.each([
    ["no tensor", {}, 0],
    ["a scalar", { a: tensor("F32", [], 0, 4) }, 4],
    ["a tensor without elements", { a: tensor("F32", [0], 0, 0) }, 0],
    [
      "one of them between others",
      {
        a: tensor("U8", [2], 0, 2),
        c: tensor("U8", [1], 2, 3),
        b: tensor("U8", [0, 7], 2, 2),
      },
      3,
    ],
    [
      "several of them at the end",
      {
        a: tensor("U8", [1], 0, 1),
        b: tensor("U8", [0], 1, 1),
        c: tensor("U8", [0], 1, 1),
      },
      1,
    ],
    ["elements of half a byte", { a: tensor("F4", [6], 0, 3) }, 3],
    [
      "every dtype",
      Object.fromEntries(
        ["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"].map(
          (dtype, i) => [dtype, tensor(dtype, [1], i, i + 1)],
        ),
      ),
      8,
    ],
    [
      "wide dtypes",
      Object.fromEntries(
        ["U64", "I64", "F64", "C64"].map((dtype, i) => [
          dtype,
          tensor(dtype, [1], 8 * i, 8 * i + 8),
        ]),
      ),
      32,
    ],
  ])("may have %s", async (_, tensors, dataBytes) => {
    const checkpoint = await readCheckpoint(single(fileOf(json(tensors), dataBytes)));
    expect(checkpoint.tensors.size).toBe(Object.keys(tensors).length);
  });

  test.each(["{ }   ", '{\n\t"a" : {"shape":[ 1 , 1 ],"data_offsets":[0,1],"dtype":"U8"}\r\n} '])(
    "may have spaces inside and after its header: %j",
    async (header) => {
      const dataBytes = header.includes("a") ? 1 : 0;
      await readCheckpoint(single(fileOf(header, dataBytes)));
    },
  );

  test("may name its tensors as it likes", async () => {
    const names = ["__proto__", "constructor", "toString", "", 'a"b\\c\n', "名前", "😀", " "];
    const entries = names.map(
      (name, i) => `${JSON.stringify(name)}:${json(tensor("U8", [1], i, i + 1))}`,
    );
    const escaped = `"\\u0061\\/":${json(tensor("U8", [0], 8, 8))}`;
    const header = `{${[...entries, escaped].join(",")}}`;
    const { tensors } = await readCheckpoint(single(fileOf(header, names.length)));
    expect([...tensors.keys()]).toEqual([...names, "a/"]);
    expect(({} as Record<string, unknown>)["dtype"]).toBeUndefined();
  });
});

const good = tensor("U8", [4], 0, 4);
const field = (text: string) => `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]${text}}}`;
const shapeOf = (text: string) => `{"a":{"dtype":"U8","shape":${text},"data_offsets":[0,4]}}`;
const offsetsOf = (text: string) => `{"a":{"dtype":"U8","shape":[4],"data_offsets":${text}}}`;
const pair = (a: readonly number[], b: readonly number[]) =>
  json({
    a: tensor("U8", [a[1]! - a[0]!], a[0]!, a[1]!),
    b: tensor("U8", [b[1]! - b[0]!], b[0]!, b[1]!),
  });
const max = 2 ** 53 - 1;

/** Why, the header, and the bytes of data when not 4. */
const malformedHeaders: readonly [string, string | Uint8Array, number?][] = [
  // JSON
  ["empty", ""],
  ["only a space", " "],
  ["a space before the object", ` ${json({ a: good })}`],
  ["a byte order mark before the object", `\ufeff${json({ a: good })}`],
  ["an array", "[]"],
  ["null", "null"],
  ["not closed", json({ a: good }).slice(0, -1)],
  ["cut inside a string", '{"a'],
  ["cut after a backslash", '{"a\\'],
  ["cut after a key", '{"a"'],
  ["cut after a colon", '{"a":'],
  ["followed by text", `${json({ a: good })}x`],
  ["followed by another object", `${json({ a: good })}{}`],
  ["followed by NUL", `${json({ a: good })}\0`],
  ["with a trailing comma", '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},}'],
  ["with a comment", `{/**/"a":${json(good)}}`],
  ["with single quotes", "{'a':1}"],
  ["with a key that is no string", "{1:2}"],
  ["with a control character in a name", `{"a\u0001":${json(good)}}`],
  ["with an unknown escape", `{"\\x61":${json(good)}}`],
  ["with a cut escape", `{"\\u00":${json(good)}}`],
  ["with a lone surrogate", `{"\\ud800":${json(good)}}`],
  ["not UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a])],
  ["overlong UTF-8", Buffer.from([0x7b, 0x22, 0xc0, 0x80, 0x22, 0x3a])],
  ["UTF-16", Buffer.from(json({ a: good }), "utf16le")],
  ["a tensor that is a number", '{"a":1}'],
  ["a tensor that is null", '{"a":null}'],
  ["a tensor that is an array", '{"a":[]}'],
  ["deeply nested arrays", "[".repeat(100_000)],
  ["a deeply nested tensor", '{"a":'.repeat(100_000)],
  ["a deeply nested shape", shapeOf("[".repeat(100_000))],
  // Keys
  ["a tensor twice", `{"a":${json(good)},"a":${json(good)}}`],
  ["a tensor twice, once escaped", `{"a":${json(good)},"\\u0061":${json(good)}}`],
  ["dtype twice", field(',"dtype":"U8"')],
  ["shape twice", field(',"shape":[4]')],
  ["data_offsets twice", field(',"data_offsets":[0,4]')],
  ["__metadata__ twice", `{"__metadata__":{},"__metadata__":{},"a":${json(good)}}`],
  ["a key of the metadata twice", `{"__metadata__":{"x":"1","x":"2"},"a":${json(good)}}`],
  ["an unknown key", field(',"extra":1')],
  ["no dtype", '{"a":{"shape":[4],"data_offsets":[0,4]}}'],
  ["no shape", '{"a":{"dtype":"U8","data_offsets":[0,4]}}'],
  ["no data_offsets", '{"a":{"dtype":"U8","shape":[4]}}'],
  ["an empty tensor object", '{"a":{}}'],
  ["metadata that is a number", `{"__metadata__":1,"a":${json(good)}}`],
  ["metadata with a number", `{"__metadata__":{"x":1},"a":${json(good)}}`],
  ["metadata with an object", `{"__metadata__":{"x":{}},"a":${json(good)}}`],
  // dtype
  ["an unknown dtype", json({ a: tensor("F12", [4], 0, 4) })],
  ["a dtype in lower case", json({ a: tensor("u8", [4], 0, 4) })],
  ["a dtype called constructor", json({ a: tensor("constructor", [4], 0, 4) })],
  ["a dtype that is a number", '{"a":{"dtype":1,"shape":[4],"data_offsets":[0,4]}}'],
  ["half a byte", json({ a: tensor("F4", [7], 0, 4) })],
  // Numbers
  ["a negative size", shapeOf("[-4]")],
  ["a fractional size", shapeOf("[4.0]")],
  ["a size with an exponent", shapeOf("[4e0]")],
  ["an infinite size", shapeOf("[1e400]")],
  ["a size with a leading zero", shapeOf("[04]")],
  ["a size with a plus", shapeOf("[+4]")],
  ["a size in a string", shapeOf('["4"]')],
  ["a null size", shapeOf("[null]")],
  ["a shape that is a number", shapeOf("4")],
  ["a size of 2^53", shapeOf("[9007199254740992]")],
  ["a size of 2^64 + 4", shapeOf("[18446744073709551620]")],
  ["a shape whose product overflows", shapeOf(`[${max},${max}]`)],
  ["a shape whose product wraps around 2^64", shapeOf("[4294967296,4294967297,4]")],
  ["an overflow before a zero", shapeOf(`[${max},${max},0]`)],
  ["more dimensions than any tensor", shapeOf(`[${Array(100_000).fill(1).join(",")}]`)],
  ["no offset", offsetsOf("[]")],
  ["one offset", offsetsOf("[0]")],
  ["three offsets", offsetsOf("[0,4,8]")],
  ["a negative offset", offsetsOf("[-4,0]")],
  ["a fractional offset", offsetsOf("[0,4.5]")],
  ["offsets that decrease", offsetsOf("[4,0]")],
  ["an offset of 2^64 - 1", offsetsOf("[18446744073709551615,3]")],
  // Layout
  ["a tensor shorter than its shape", json({ a: tensor("U8", [5], 0, 4) })],
  ["a tensor longer than its shape", json({ a: tensor("U8", [3], 0, 4) })],
  ["a scalar of the wrong size", json({ a: tensor("F64", [], 0, 4) })],
  ["data that does not begin at 0", json({ a: tensor("U8", [3], 1, 4) })],
  ["data beyond the file", json({ a: tensor("U8", [8], 0, 8) })],
  ["data far beyond the file", json({ a: tensor("U8", [2 ** 40], 0, 2 ** 40) })],
  ["bytes after the data", json({ a: tensor("U8", [3], 0, 3) })],
  ["bytes without a tensor", "{}"],
  ["a hole", pair([0, 1], [2, 4])],
  ["an overlap", pair([0, 3], [2, 4])],
  ["the same bytes twice", pair([0, 4], [0, 4])],
  ["a tensor inside another", pair([0, 4], [1, 2])],
  ["an empty tensor inside another", json({ a: good, b: tensor("U8", [0], 2, 2) })],
  ["an empty tensor beyond the data", json({ a: good, b: tensor("U8", [0], 9, 9) })],
];

const plain = json({ a: good });
const malformedFiles: readonly [string, Buffer][] = [
  ["is empty", Buffer.alloc(0)],
  ["has 4 bytes", Buffer.alloc(4)],
  ["has 7 bytes", Buffer.alloc(7)],
  ["has only a length", Buffer.from([2, 0, 0, 0, 0, 0, 0, 0])],
  ["has a header of no bytes", fileOf("", 0)],
  ["has a length one too large for the file", fileOf(plain, 0, BigInt(plain.length + 1))],
  ["has a length one too small", fileOf(plain, 4, BigInt(plain.length - 1))],
  ["has a length that includes data", fileOf(plain, 4, BigInt(plain.length + 1))],
  ["has a length of 2^31", fileOf(plain, 4, 2n ** 31n)],
  ["has a length of 2^63", fileOf(plain, 4, 2n ** 63n)],
  ["has a length of 2^64 - 1", fileOf(plain, 4, 2n ** 64n - 1n)],
  ["has a length of 2^64 - 8", fileOf(plain, 4, 2n ** 64n - 8n)],
  ["is cut inside its header", fileOf(plain, 4).subarray(0, 20)],
  ["is cut inside its data", fileOf(plain, 4).subarray(0, -1)],
];

describe("a malformed file", () => {
  test.each(malformedHeaders)("whose header is or has %s", async (_, header, dataBytes = 4) => {
    const directory = single(fileOf(header, dataBytes));
    const started = performance.now();
    const details = { file: join(directory, "model.safetensors"), reason: expect.any(String) };
    const expected = expect.objectContaining({ code: "ERR_MODEL_CORRUPT", details });
    await expect(readCheckpoint(directory)).rejects.toEqual(expected);
    expect(performance.now() - started).toBeLessThan(1_000);
  });

  test.each(malformedFiles)("that %s", async (_, content) => {
    await expect(readCheckpoint(single(content))).rejects.toEqual(code("ERR_MODEL_CORRUPT"));
  });

  test("is found by the header alone", () => {
    const file = { path: "/model.safetensors", bytes: 8 + plain.length + 4 };
    expect(parseSafetensorsHeader(Buffer.from(plain), file)).toHaveLength(1);
    const short = { ...file, bytes: file.bytes - 1 };
    const act = () => parseSafetensorsHeader(Buffer.from(plain), short);
    expect(act).toThrow(code("ERR_MODEL_CORRUPT"));
  });
});

test("a header above 16 MB is refused before it is read", async () => {
  const header = `{${" ".repeat(17 * 2 ** 20)}}`;
  const started = performance.now();
  await expect(readCheckpoint(single(fileOf(header)))).rejects.toEqual(
    code("ERR_MODEL_UNSUPPORTED"),
  );
  expect(performance.now() - started).toBeLessThan(500);
});

test("a header of many tensors leaves the event loop free", async () => {
  const entries = Array.from({ length: 100_000 }, (_, i) => {
    return `"model.layers.${i}.weight":${json(tensor("U8", [1], i, i + 1))}`;
  });
  const directory = single(fileOf(`{${entries.join(",")}}`, entries.length));
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const { tensors } = await readCheckpoint(directory);
  clearInterval(timer);
  expect(tensors.size).toBe(entries.length);
  expect(turns).toBeGreaterThan(10);
});

test("reading stops when its signal fires", async () => {
  const signal = AbortSignal.abort();
  await expect(readCheckpoint(single(fileOf(plain, 4)), { signal })).rejects.toEqual(
    code("ERR_ABORTED"),
  );
});

const shard = (name: string) => fileOf(json({ [name]: good }), 4);
const index = (weightMap: object) => json({ metadata: { total_size: 8 }, weight_map: weightMap });
const one = "model-00001-of-00002.safetensors";
const two = "model-00002-of-00002.safetensors";
const indexName = "model.safetensors.index.json";

describe("shards", () => {
  test("are read by their index", async () => {
    const directory = directoryOf({
      [one]: shard("a"),
      [two]: shard("b"),
      [indexName]: index({ a: one, b: two }),
    });
    const { files, tensors } = await readCheckpoint(directory);
    expect(files.map(({ path }) => path)).toEqual([join(directory, one), join(directory, two)]);
    expect(tensors.get("b")).toMatchObject({ file: join(directory, two), bytes: 4 });
  });

  test("may be links, as in a download cache", async () => {
    const elsewhere = directoryOf({ blob: shard("a") });
    const directory = directoryOf({ [indexName]: index({ a: one }) });
    symlinkSync(join(elsewhere, "blob"), join(directory, one));
    expect((await readCheckpoint(directory)).tensors.size).toBe(1);
  });

  test("are not looked at when there is one file", async () => {
    const directory = directoryOf({ "model.safetensors": shard("a"), [indexName]: "broken" });
    expect((await readCheckpoint(directory)).tensors.size).toBe(1);
  });

  test.each([
    ["is empty", ""],
    ["is no JSON", "{"],
    ["is an array", "[]"],
    ["is not UTF-8", Buffer.from([0x7b, 0xff, 0x7d])],
    ["has no weight_map", "{}"],
    ["has weight_map twice", `{"weight_map":{"a":"${one}"},"weight_map":{"a":"${one}"}}`],
    ["has a tensor twice", `{"weight_map":{"a":"${one}","a":"${two}"}}`],
    ["has a weight_map that is a list", '{"weight_map":[]}'],
    ["names a shard by number", '{"weight_map":{"a":1}}'],
    ["leaves the directory", index({ a: "../model.safetensors" })],
    ["names an absolute path", index({ a: "/etc/passwd.safetensors" })],
    ["names a path inside", index({ a: `sub/${one}` })],
    ["names a Windows path", index({ a: "..\\x.safetensors" })],
    ["has NUL in a name", index({ a: "x\0.safetensors" })],
    ["names an empty file", index({ a: "" })],
    ["names the directory", index({ a: "." })],
    ["names another kind of file", index({ a: "config.json" })],
    ["names a tensor that no shard has", index({ a: one, missing: one })],
    ["names the wrong shard", index({ a: two, b: two })],
    ["is nested too deeply", `{"metadata":${"[".repeat(100_000)}`],
  ])("whose index %s give ERR_MODEL_CORRUPT", async (_, content) => {
    const files = { [one]: shard("a"), [two]: shard("b"), [indexName]: content };
    await expect(readCheckpoint(directoryOf(files))).rejects.toEqual(code("ERR_MODEL_CORRUPT"));
  });

  test("must not hold a tensor twice", async () => {
    const both = fileOf(json({ a: good, b: tensor("U8", [0], 4, 4) }), 4);
    for (const map of [
      { a: one, b: two },
      { b: two, a: one },
    ]) {
      const directory = directoryOf({ [one]: shard("a"), [two]: both, [indexName]: index(map) });
      await expect(readCheckpoint(directory)).rejects.toEqual(code("ERR_MODEL_CORRUPT"));
    }
  });

  test("must exist", async () => {
    const directory = directoryOf({ [one]: shard("a"), [indexName]: index({ a: one, b: two }) });
    await expect(readCheckpoint(directory)).rejects.toEqual(code("ERR_MODEL_NOT_FOUND"));
  });

  test("must be valid", async () => {
    const directory = directoryOf({ [one]: Buffer.alloc(9), [indexName]: index({ a: one }) });
    await expect(readCheckpoint(directory)).rejects.toEqual(code("ERR_MODEL_CORRUPT"));
  });
});

test("a directory without weights gives ERR_MODEL_NOT_FOUND", async () => {
  const notFound = code("ERR_MODEL_NOT_FOUND");
  await expect(readCheckpoint(directoryOf({}))).rejects.toEqual(notFound);
  await expect(readCheckpoint(join(scratch, "missing"))).rejects.toEqual(notFound);
  const directory = directoryOf({});
  mkdirSync(join(directory, "model.safetensors"));
  await expect(readCheckpoint(directory)).rejects.toEqual(notFound);
});
