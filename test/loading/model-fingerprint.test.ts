import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { openModelDirectory } from "../../lib/loading/model-directory.js";
import { fingerprintModel, modelFingerprint } from "../../lib/loading/model-fingerprint.js";
import { goldenDirectory, goldenNames } from "../support/golden.js";
import { createRandom } from "../support/random.js";

const scratch = mkdtempSync(join(tmpdir(), "pagoda-fingerprint-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let count = 0;

interface Tensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}
type Tensors = Readonly<Record<string, Tensor>>;

const random = createRandom(5);
const f32 = (...shape: number[]): Tensor => {
  const values = random.normals(shape.reduce((a, b) => a * b, 1));
  return { dtype: "F32", shape, data: new Uint8Array(values.buffer) };
};

function safetensors(tensors: Tensors): Buffer {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [offset, (offset += data.length)] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...Object.values(tensors).map(({ data }) => data)]);
}

/** A model directory with one file, or with one a shard. */
function directoryOf(config: unknown, ...shards: Tensors[]): string {
  const directory = join(scratch, String(count++));
  mkdirSync(directory);
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  if (shards.length === 1) {
    writeFileSync(join(directory, "model.safetensors"), safetensors(shards[0]!));
    return directory;
  }
  const weightMap: Record<string, string> = {};
  for (const [i, tensors] of shards.entries()) {
    const file = `part-${i}.safetensors`;
    writeFileSync(join(directory, file), safetensors(tensors));
    for (const name of Object.keys(tensors)) weightMap[name] = file;
  }
  const index = JSON.stringify({ weight_map: weightMap });
  writeFileSync(join(directory, "model.safetensors.index.json"), index);
  return directory;
}

const config = { model_type: "llama", hidden_size: 8, rope_scaling: { type: "linear", factor: 2 } };
const [a, b, c] = [f32(64, 32), f32(7), f32(3, 5)];
const tensors = { a, b, c };
const expected = modelFingerprint(directoryOf(config, tensors));

/** The tensor with one byte changed. */
function changed({ data, ...rest }: Tensor, at: number): Tensor {
  const copy = data.slice();
  copy[at]! ^= 1;
  return { ...rest, data: copy };
}

describe("the fingerprint", () => {
  test("is SHA-256 in hex, and the same again", async () => {
    expect(await expected).toMatch(/^[0-9a-f]{64}$/);
    const directory = await openModelDirectory(directoryOf(config, tensors));
    expect(await fingerprintModel(directory)).toBe(await expected);
  });

  test.each<[string, unknown, Tensors[]]>([
    ["order of the tensors", config, [{ c, a, b }]],
    ["number of files", config, [{ a }, { b, c }]],
    ["names of files", config, [{ c, b }, {}, { a }]],
    [
      "order of the fields of config.json",
      { rope_scaling: { factor: 2, type: "linear" }, hidden_size: 8, model_type: "llama" },
      [tensors],
    ],
    ["values behind the first 4 KiB", config, [{ ...tensors, a: changed(a, 4096) }]],
  ])("does not depend on: %s", async (_, fields, shards) => {
    expect(await modelFingerprint(directoryOf(fields, ...shards))).toBe(await expected);
  });

  test.each<[string, unknown, Tensors]>([
    ["the first value", config, { ...tensors, a: changed(a, 0) }],
    ["the last value of the first 4 KiB", config, { ...tensors, a: changed(a, 4095) }],
    ["the last value of a short tensor", config, { ...tensors, b: changed(b, 27) }],
    ["a name", config, { a, b, d: c }],
    ["two names exchanged", config, { a, b: c, c: b }],
    ["a shape", config, { ...tensors, a: { ...a, shape: [32, 64] } }],
    ["a dtype", config, { ...tensors, a: { ...a, dtype: "I32" } }],
    ["a tensor more", config, { ...tensors, d: { dtype: "F32", shape: [0], data: Buffer.of() } }],
    ["a tensor less", config, { a, b }],
    ["a field", { ...config, hidden_size: 9 }, tensors],
    ["a field more", { ...config, bias: null }, tensors],
    ["an inner field", { ...config, rope_scaling: { type: "linear", factor: 4 } }, tensors],
    ["a string for a number", { ...config, hidden_size: "8" }, tensors],
    ["a list for an object", { ...config, rope_scaling: ["linear", 2] }, tensors],
  ])("depends on: %s", async (_, fields, changedTensors) => {
    expect(await modelFingerprint(directoryOf(fields, changedTensors))).not.toBe(await expected);
  });

  test("differs for all models of the tests", async () => {
    const names = goldenNames();
    const all = await Promise.all(names.map((name) => modelFingerprint(goldenDirectory(name))));
    expect(new Set(all).size).toBe(names.length);
  });

  test("of many tensors lets the event loop run", async () => {
    const many = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`t${i}`, f32(16, 128)]));
    const directory = directoryOf(config, many);
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    await modelFingerprint(directory);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
  });
});

describe("errors", () => {
  const rejects = (directory: unknown, code: string, options: { signal?: AbortSignal } = {}) =>
    expect(modelFingerprint(directory as string, options)).rejects.toMatchObject({ code });

  test("of the arguments and the files", async () => {
    await rejects(5, "ERR_ARGUMENT");
    await rejects("", "ERR_ARGUMENT");
    await rejects(join(scratch, "missing"), "ERR_MODEL_NOT_FOUND");
    const nested = directoryOf(config, tensors);
    const levels = 100_000;
    const json = `{"nested":${"[".repeat(levels)}${"]".repeat(levels)}}`;
    writeFileSync(join(nested, "config.json"), json);
    await rejects(nested, "ERR_CONFIG_INVALID");
  });

  test("of files that change meanwhile", async () => {
    const path = directoryOf(config, tensors);
    const directory = await openModelDirectory(path);
    await truncate(join(path, "model.safetensors"), 1000);
    await expect(fingerprintModel(directory)).rejects.toMatchObject({ code: "ERR_MODEL_CORRUPT" });
    rmSync(join(path, "model.safetensors"));
    await expect(fingerprintModel(directory)).rejects.toMatchObject({
      code: "ERR_MODEL_NOT_FOUND",
    });
  });

  test("by the signal, before and meanwhile", async () => {
    await rejects(directoryOf(config, tensors), "ERR_ABORTED", { signal: AbortSignal.abort() });
    const controller = new AbortController();
    const directory = await openModelDirectory(directoryOf(config, { a, b }, { c }));
    const fingerprint = fingerprintModel(directory, { signal: controller.signal });
    controller.abort();
    await expect(fingerprint).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });
});
