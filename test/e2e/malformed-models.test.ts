import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { createEngine, PagodaError } from "pagoda-llm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readTokenizerFiles } from "../../lib/loading/tokenizer-files.js";
import { writeGgufOf } from "../support/gguf-model.js";
import { tokenizerMetadata } from "../support/gguf-tokenizer.js";
import { edgeText, malform, writeEdge, type NumberField } from "../support/malform.js";
import type { Random } from "../support/random.js";

const fixtures = fileURLToPath(new URL("../fixtures/", import.meta.url));
const source = path.join(fixtures, "hf-extra/llama-tied-bias");
/** Directories that become GGUF files: a dense model, experts, latent attention with experts. */
const ggufSources = [
  "hf-extra/llama-tied-bias",
  "hf-tiny/qwen3-moe",
  "hf-extra/deepseek-v2-groups",
];

/** Damaged copies of each kind of file. */
const copies = 225;
/** In milliseconds; of 8,000 copies none took a fifth of it. */
const timeLimit = 1_000;
/** A copy that is slow by itself is slow each time; one that waited for a busy machine is not. */
const attempts = 5;

/** Codes by which a damaged file may be refused; a load that works is right, too. */
const refusals = new Set([
  "ERR_MODEL_CORRUPT",
  "ERR_MODEL_UNSUPPORTED",
  "ERR_MODEL_NOT_FOUND",
  "ERR_CONFIG_INVALID",
  "ERR_TENSOR_MISMATCH",
  "ERR_TOKENIZER_INVALID",
  "ERR_ARGUMENT",
]);

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "pagoda-malformed-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Loads the model and runs a step, or says by which code it was refused. */
async function verdict(model: string): Promise<string> {
  try {
    const engine = await createEngine({ model, kvCache: { numBlocks: 8 } });
    try {
      await engine.generate({ prompt: [1, 2, 3], maxTokens: 2, ignoreEos: true });
    } finally {
      await engine.close();
    }
    return "loaded";
  } catch (error) {
    if (!PagodaError.is(error)) throw error;
    // Weights may have become NaN, or too few KV blocks be left for two tokens.
    const harmless = ["ERR_NON_FINITE", "ERR_CONTEXT_LENGTH", "ERR_TOKEN_ID"];
    return harmless.includes(error.code) ? "loaded" : error.code;
  }
}

/** The verdict, and the least time that it took: once is enough where that is below the limit. */
async function timedVerdict(model: string): Promise<{ answer: string; time: number }> {
  let time = Infinity;
  let answer = "";
  for (let attempt = 0; attempt < attempts && time >= timeLimit; attempt++) {
    const started = performance.now();
    answer = await verdict(model);
    time = Math.min(time, performance.now() - started);
  }
  return { answer, time };
}

async function expectVerdicts(prepare: (seed: number) => Promise<string>): Promise<void> {
  const counts = new Map<string, number>();
  for (let seed = 0; seed < copies; seed++) {
    const model = await prepare(seed);
    const { answer, time } = await timedVerdict(model);
    expect(time, `copy ${seed}`).toBeLessThan(timeLimit);
    counts.set(answer, (counts.get(answer) ?? 0) + 1);
    await rm(model, { recursive: true });
  }
  const unknown = [...counts.keys()].filter((code) => code !== "loaded" && !refusals.has(code));
  expect(unknown).toEqual([]);
  expect(counts.get("ERR_MODEL_CORRUPT")).toBeGreaterThan(copies / 5);
}

describe(`${copies} damaged copies are refused or work`, () => {
  it.each(ggufSources)("of a GGUF file of %s", { timeout: 300_000 }, async (name) => {
    const tokenizer = readTokenizerFiles(path.join(fixtures, "tokenizers/byte-level"));
    const metadata = tokenizerMetadata(tokenizer, { pre: "llama-bpe", specialIds: { eos: 1 } });
    const file = await writeGgufOf(path.join(fixtures, name), { metadata });
    const headerBytes = file.lastIndexOf("blk.") + 64;
    const fields = ggufFields(file);
    const editField = (random: Random): Buffer =>
      writeEdge(Buffer.from(file), fields[random.integer(fields.length)]!, random);
    await expectVerdicts(async (seed) => {
      const model = path.join(folder, `${seed}.gguf`);
      await writeFile(model, malform({ file, headerBytes, editField }, seed));
      return model;
    });
  });

  it("of a safetensors file", { timeout: 300_000 }, async () => {
    const file = await readFile(path.join(source, "model.safetensors"));
    const headerBytes = 8 + Number(file.readBigUInt64LE());
    const editField = (random: Random): Buffer => {
      const header = editWord(file.toString("utf8", 8, headerBytes), random);
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
      return Buffer.concat([length, Buffer.from(header), file.subarray(headerBytes)]);
    };
    await expectVerdicts(async (seed) => {
      const model = path.join(folder, String(seed));
      await cp(source, model, { recursive: true });
      const damaged = malform({ file, headerBytes, editField }, seed);
      await writeFile(path.join(model, "model.safetensors"), damaged);
      return model;
    });
  });
});

const words = ["null", "-1", "0.5", "1e400", "[]", "{}", '"F16"', '"I32"', '"U8"', '""', "true"];

/** Replaces one number or text of a JSON document. */
function editWord(json: string, random: Random): string {
  const found = [...json.matchAll(/\d+|"[^"]*"/g)];
  const { index, 0: word } = found[random.integer(found.length)]!;
  const other = random.integer(2) === 0 ? edgeText(random) : words[random.integer(words.length)]!;
  return json.slice(0, index) + other + json.slice(index + word.length);
}

/** Counts, and of keys and tensors the lengths, types, dimensions and offsets. */
function ggufFields(file: Buffer): NumberField[] {
  const fields: NumberField[] = [
    { offset: 4, bytes: 4 },
    { offset: 8, bytes: 8 },
    { offset: 16, bytes: 8 },
  ];
  const text = file.toString("latin1");
  for (const match of text.matchAll(/(?:llama|qwen3moe|deepseek2|tokenizer|general)\.[a-z_.]+/g)) {
    const end = match.index + match[0].length;
    fields.push({ offset: match.index - 8, bytes: 8 }, { offset: end, bytes: 4 });
    fields.push({ offset: end + 4, bytes: 4 }, { offset: end + 8, bytes: 8 });
  }
  for (const match of text.matchAll(/blk\.\d+\.[a-z_]+\.weight/g)) {
    const end = match.index + match[0].length;
    const typeAt = end + 4 + 8 * file.readUInt32LE(end);
    fields.push({ offset: match.index - 8, bytes: 8 }, { offset: end, bytes: 4 });
    for (let at = end + 4; at < typeAt; at += 8) fields.push({ offset: at, bytes: 8 });
    fields.push({ offset: typeAt, bytes: 4 }, { offset: typeAt + 4, bytes: 8 });
  }
  return fields;
}
