import { cp, mkdtemp, open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { createEngine, PagodaError, type Engine } from "pagoda-llm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const source = fileURLToPath(new URL("../fixtures/hf-tiny/llama", import.meta.url));
const weights = "model.safetensors";

type Json = Record<string, unknown>;
/** Spoils a copy of a good model directory. */
type Damage = (directory: string) => Promise<void>;

function editConfig(edit: (config: Json) => void): Damage {
  return async (directory) => {
    const file = path.join(directory, "config.json");
    const config = JSON.parse(await readFile(file, "utf8")) as Json;
    edit(config);
    await writeFile(file, JSON.stringify(config));
  };
}

/** Edits the header of the weights, keeping the data. */
function editHeader(edit: (header: Record<string, Json>) => void): Damage {
  return async (directory) => {
    const file = path.join(directory, weights);
    const bytes = await readFile(file);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, Json>;
    edit(header);
    const text = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(text.length));
    await writeFile(file, Buffer.concat([prefix, text, bytes.subarray(8 + length)]));
  };
}

async function writeHeaderLength(directory: string, length: bigint): Promise<void> {
  const handle = await open(path.join(directory, weights), "r+");
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(length);
  await handle.write(bytes, 0, 8, 0);
  await handle.close();
}

function rename(header: Record<string, Json>, from: string, to: string): void {
  header[to] = header[from]!;
  delete header[from];
}

const norm = "model.norm.weight";
const query = "model.layers.1.self_attn.q_proj.weight";

const damages: readonly (readonly [what: string, code: string, damage: Damage])[] = [
  ["no weights", "ERR_MODEL_NOT_FOUND", (d) => rm(path.join(d, weights))],
  ["no config", "ERR_MODEL_NOT_FOUND", (d) => rm(path.join(d, "config.json"))],
  [
    "config that is no JSON",
    "ERR_CONFIG_INVALID",
    (d) => writeFile(path.join(d, "config.json"), "{"),
  ],
  [
    "config that is a list",
    "ERR_CONFIG_INVALID",
    (d) => writeFile(path.join(d, "config.json"), "[]"),
  ],
  ["empty weights", "ERR_MODEL_CORRUPT", (d) => truncate(path.join(d, weights), 0)],
  ["4 bytes of weights", "ERR_MODEL_CORRUPT", (d) => truncate(path.join(d, weights), 4)],
  ["weights cut in the header", "ERR_MODEL_CORRUPT", (d) => truncate(path.join(d, weights), 100)],
  ["weights cut in the data", "ERR_MODEL_CORRUPT", (d) => truncate(path.join(d, weights), 500_000)],
  ["header length of 0", "ERR_MODEL_CORRUPT", (d) => writeHeaderLength(d, 0n)],
  ["header length of 2^63", "ERR_MODEL_CORRUPT", (d) => writeHeaderLength(d, 1n << 63n)],
  ["header length of 200 MB", "ERR_MODEL_CORRUPT", (d) => writeHeaderLength(d, 200_000_000n)],
  ["header length beyond the file", "ERR_MODEL_CORRUPT", (d) => writeHeaderLength(d, 700_000n)],
  ["a missing tensor", "ERR_TENSOR_MISMATCH", editHeader((h) => rename(h, norm, "unknown"))],
  [
    "a tensor of another shape",
    "ERR_TENSOR_MISMATCH",
    editHeader((h) => (h[query]!["shape"] = [32, 128])),
  ],
  [
    "a tensor of another rank",
    "ERR_TENSOR_MISMATCH",
    editHeader((h) => (h[norm]!["shape"] = [1, 64])),
  ],
  ["a tensor of integers", "ERR_TENSOR_MISMATCH", editHeader((h) => (h[norm]!["dtype"] = "I32"))],
  ["an unknown dtype", "ERR_MODEL_CORRUPT", editHeader((h) => (h[norm]!["dtype"] = "F33"))],
  [
    "an unknown architecture",
    "ERR_MODEL_UNSUPPORTED",
    editConfig((c) => (c["architectures"] = ["MambaForCausalLM"])),
  ],
  [
    "an unknown way of quantising",
    "ERR_MODEL_UNSUPPORTED",
    editConfig((c) => (c["quantization_config"] = { quant_method: "bitsandbytes" })),
  ],
  [
    "weights in fp8",
    "ERR_MODEL_UNSUPPORTED",
    editConfig((c) => (c["quantization_config"] = { quant_method: "fp8", fmt: "e4m3" })),
  ],
  ["an unknown activation", "ERR_MODEL_UNSUPPORTED", editConfig((c) => (c["hidden_act"] = "mish"))],
  [
    "an unknown rope type",
    "ERR_MODEL_UNSUPPORTED",
    editConfig((c) => (c["rope_parameters"] = { rope_type: "magic", rope_theta: 1 })),
  ],
  ["no hidden_size", "ERR_CONFIG_INVALID", editConfig((c) => delete c["hidden_size"])],
  ["hidden_size as text", "ERR_CONFIG_INVALID", editConfig((c) => (c["hidden_size"] = "64"))],
  ["hidden_size of 0", "ERR_CONFIG_INVALID", editConfig((c) => (c["hidden_size"] = 0))],
  ["hidden_size of 2^40", "ERR_CONFIG_INVALID", editConfig((c) => (c["hidden_size"] = 2 ** 40))],
  ["a fraction of layers", "ERR_CONFIG_INVALID", editConfig((c) => (c["num_hidden_layers"] = 2.5))],
  ["2^31 layers", "ERR_CONFIG_INVALID", editConfig((c) => (c["num_hidden_layers"] = 2 ** 31))],
  [
    "heads that do not divide",
    "ERR_CONFIG_INVALID",
    editConfig((c) => (c["num_key_value_heads"] = 3)),
  ],
  ["no KV heads", "ERR_CONFIG_INVALID", editConfig((c) => (c["num_key_value_heads"] = 0))],
  ["an epsilon of 0", "ERR_CONFIG_INVALID", editConfig((c) => (c["rms_norm_eps"] = 0))],
  [
    "a negative rope_theta",
    "ERR_CONFIG_INVALID",
    editConfig((c) => (c["rope_parameters"] = { rope_type: "default", rope_theta: -1 })),
  ],
  ["a huge vocabulary", "ERR_TENSOR_MISMATCH", editConfig((c) => (c["vocab_size"] = 1_000_000))],
  ["eos outside the vocabulary", "ERR_CONFIG_INVALID", editConfig((c) => (c["eos_token_id"] = -5))],
  [
    "a tokenizer that is no JSON",
    "ERR_TOKENIZER_INVALID",
    (d) => writeFile(path.join(d, "tokenizer.json"), "["),
  ],
];

describe("a damaged model directory", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "pagoda-bad-models-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each(damages)("%s: %s", async (what, code, damage) => {
    const directory = path.join(folder, what.replaceAll(/\W+/g, "-"));
    await cp(source, directory, { recursive: true });
    await damage(directory);
    const started = performance.now();
    const error: unknown = await createEngine({ model: directory }).then(
      (engine) => engine.close().then(() => "it was loaded"),
      (reason: unknown) => reason,
    );
    expect(PagodaError.is(error) ? error.code : error).toBe(code);
    expect((error as PagodaError).message.length).toBeGreaterThan(10);
    expect(performance.now() - started).toBeLessThan(5000);
  });

  it("names what is known for an unknown architecture", async () => {
    const directory = path.join(folder, "unknown");
    await cp(source, directory, { recursive: true });
    await editConfig((c) => (c["architectures"] = ["X"]))(directory);
    await expect(createEngine({ model: directory })).rejects.toMatchObject({
      code: "ERR_MODEL_UNSUPPORTED",
      details: {
        supported: expect.arrayContaining(["LlamaForCausalLM", "Gemma3ForCausalLM"]) as unknown,
      },
    });
  });

  it("weights that are NaN fail the request, not the engine", async () => {
    const directory = path.join(folder, "nan");
    await cp(source, directory, { recursive: true });
    const file = path.join(directory, weights);
    const bytes = await readFile(file);
    const start = 8 + Number(bytes.readBigUInt64LE());
    bytes.fill(0xff, start, start + 512 * 64 * 4); // the first tensor of the file
    await writeFile(file, bytes);
    const engine = await createEngine({ model: directory });
    const prompt = [1, 2, 3];
    await expect(engine.generate({ prompt, maxTokens: 3 })).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
    });
    await expect(engine.generate({ prompt, maxTokens: 3 })).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
    });
    expect(engine.stats().freeBlocks).toBe(engine.stats().totalBlocks);
    await engine.close();
  });

  it("a file that shrinks after it was opened gives an error, not a signal", async () => {
    const directory = path.join(folder, "shrinks");
    await cp(source, directory, { recursive: true });
    const loading = createEngine({
      model: directory,
      onProgress: ({ phase }) => {
        if (phase === "weights") void truncate(path.join(directory, weights), 300_000);
      },
    });
    const result: unknown = await loading.then(
      (engine) => engine.close(), // it may have been read already
      (reason: unknown) => (reason as PagodaError).code,
    );
    expect([undefined, "ERR_MODEL_CORRUPT"]).toContain(result);
  });
});

describe("a model directory without a tokenizer", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ model: source, kvCache: { numBlocks: 10 } });
  });
  afterAll(() => engine.close());

  it("takes token ids, gives empty text", async () => {
    const result = await engine.generate({ prompt: [1, 2, 3], maxTokens: 4, ignoreEos: true });
    expect(result).toMatchObject({ text: "", finishReason: "length" });
    expect(result.tokenIds).toHaveLength(4);
  });

  it.each([
    ["a text prompt", { prompt: "hello" }, "ERR_TOKENIZER_MISSING"],
    ["a stop text", { prompt: [1], stop: "x" }, "ERR_TOKENIZER_MISSING"],
    ["no token ids", { prompt: [] }, "ERR_EMPTY_PROMPT"],
    ["an id beyond the vocabulary", { prompt: [512] }, "ERR_TOKEN_ID"],
    ["a negative id", { prompt: [-1] }, "ERR_TOKEN_ID"],
    ["a fraction of an id", { prompt: [1.5] }, "ERR_TOKEN_ID"],
    ["a hole", { prompt: [1, , 2] }, "ERR_TOKEN_ID"], // oxlint-disable-line no-sparse-arrays
    ["a prompt longer than the context", { prompt: Array(300).fill(1) }, "ERR_CONTEXT_LENGTH"],
    ["a NaN temperature", { prompt: [1], temperature: Number.NaN }, "ERR_ARGUMENT"],
    ["an infinite temperature", { prompt: [1], temperature: Infinity }, "ERR_ARGUMENT"],
    ["a negative temperature", { prompt: [1], temperature: -1 }, "ERR_ARGUMENT"],
    ["topP of 0", { prompt: [1], topP: 0 }, "ERR_ARGUMENT"],
    ["topP above 1", { prompt: [1], topP: 1.01 }, "ERR_ARGUMENT"],
    ["topK as text", { prompt: [1], topK: "5" }, "ERR_ARGUMENT"],
    ["a negative topK", { prompt: [1], topK: -2 }, "ERR_ARGUMENT"],
    ["minP above 1", { prompt: [1], minP: 2 }, "ERR_ARGUMENT"],
    ["maxTokens of 0", { prompt: [1], maxTokens: 0 }, "ERR_ARGUMENT"],
    ["a seed of 2^60", { prompt: [1], seed: 2 ** 60 }, "ERR_ARGUMENT"],
    ["no prompt", {}, "ERR_ARGUMENT"],
    ["null", null, "ERR_ARGUMENT"],
  ])("%s: a typed error, at once", (_, request, code) => {
    expect(() => engine.generate(request as never)).toThrow(
      expect.objectContaining({ code }) as Error,
    );
    expect(engine.stats().freeBlocks).toBe(engine.stats().totalBlocks);
  });

  it("is unusable after close, which may come in the middle of a generation", async () => {
    const other = await createEngine({ model: source });
    const generation = other.generate({ prompt: [1, 2, 3], maxTokens: 200, ignoreEos: true });
    await generation[Symbol.asyncIterator]().next();
    await other.close();
    await expect(generation).rejects.toMatchObject({ code: "ERR_CLOSED" });
    expect(() => other.generate({ prompt: [1] })).toThrow(
      expect.objectContaining({ code: "ERR_CLOSED" }) as Error,
    );
    await expect(other.logits([1])).rejects.toMatchObject({ code: "ERR_CLOSED" });
    await other.close();
  });
});
