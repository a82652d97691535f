import { fileURLToPath } from "node:url";
import {
  createEngine,
  type Engine,
  type GenerateRequest,
  type GenerateResult,
  type TokenLogprob,
} from "pagoda-llm";
import { untilIdle } from "../support/demo.js";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";

const model = fileURLToPath(new URL("../../models/demo", import.meta.url));
const prompt = "Once upon a time, there was a little";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ model, dtype: "f32", threads: 2 });
});
afterAll(() => engine.close());
afterEach(() => untilIdle(engine));

/** Everything that changes what is drawn, in many combinations. */
function everything(count: number): GenerateRequest[] {
  return Array.from({ length: count }, (_, i) => ({
    prompt: prompt.repeat(1 + (i % 3)),
    maxTokens: 24,
    ignoreEos: true,
    seed: i,
    temperature: i % 5 === 0 ? 0 : 0.7 + (i % 3) / 3,
    logprobs: i % 4,
    ...(i % 2 === 0 && { repetitionPenalty: 1.2, topK: 50 }),
    ...(i % 3 === 0 && { presencePenalty: 0.5, frequencyPenalty: 0.4 }),
    ...(i % 4 === 1 && { typicalP: 0.9, topP: 0.95 }),
    ...(i % 3 === 1 && { dry: { multiplier: 0.8, allowedLength: 1 } }),
    ...(i % 4 === 2 && { xtc: { probability: 0.5, threshold: 0.05 } }),
    ...(i % 5 === 2 && { badWords: ["the", "was"], logitBias: { 300: 2, 260: -3 } }),
    ...(i % 7 === 3 && { minTokens: 20, ignoreEos: false }),
  }));
}

const drawn = ({ tokenIds, logprobs, text }: GenerateResult) => ({ tokenIds, logprobs, text });

it("gives the same tokens and log-probabilities in any batch, chunk and pool", async () => {
  const requests = everything(16);
  const alone = [];
  for (const request of requests) alone.push(drawn(await engine.generate(request)));
  const together = await Promise.all(requests.map((request) => engine.generate(request)));
  expect(together.map(drawn)).toEqual(alone);
  expect(new Set(alone.map(({ text }) => text)).size).toBeGreaterThan(10);
  const variants = [
    { kvCache: { blockSize: 3 }, scheduler: { maxChunkTokens: 3 } },
    { kvCache: { blockSize: 8, numBlocks: 20 }, maxModelLen: 128 }, // preempts
    { threads: 1, scheduler: { maxBatchTokens: 5 } },
  ];
  for (const variant of variants) {
    const other = await createEngine({ model, dtype: "f32", ...variant });
    const results = await Promise.all(requests.map((request) => other.generate(request)));
    expect(results.map(drawn)).toEqual(alone);
    await other.close();
  }
});

it("neutral values change nothing, bit for bit", async () => {
  const request = { prompt, maxTokens: 30, seed: 5, logprobs: 3 };
  const neutral = {
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    typicalP: 1,
    minTokens: 0,
    logitBias: { 7: 0 },
    dry: { multiplier: 0 },
    xtc: { probability: 0 },
  };
  const plain = await engine.generate(request);
  expect(drawn(await engine.generate({ ...request, ...neutral }))).toEqual(drawn(plain));
});

function logSoftmax(row: Float32Array): Float64Array {
  const max = row.reduce((a, b) => Math.max(a, b));
  const total = row.reduce((sum, x) => sum + Math.exp(x - max), 0);
  return Float64Array.from(row, (x) => x - max - Math.log(total));
}

/** Compares with the teacher-forced logits in front of the token at `position`. */
function expectLogprob(token: TokenLogprob, row: Float32Array, count: number): void {
  const expected = logSoftmax(row);
  const order = [...expected.keys()].sort((a, b) => expected[b]! - expected[a]! || a - b);
  expect(token.logprob).toBeCloseTo(expected[token.id]!, 4);
  expect(token.rank).toBe(1 + expected.filter((x) => x > expected[token.id]!).length);
  expect(token.top.map(({ id }) => id)).toEqual(order.slice(0, count));
  for (const { id, logprob } of token.top) expect(logprob).toBeCloseTo(expected[id]!, 4);
}

it("log-probabilities are those of the teacher-forced logits, of output and prompt", async () => {
  const { promptTokenIds, tokenIds, logprobs, promptLogprobs } = await engine.generate({
    prompt,
    maxTokens: 12,
    seed: 3,
    ignoreEos: true,
    logprobs: 5,
    promptLogprobs: 2,
    repetitionPenalty: 1.3,
    topK: 20,
  });
  const ids = [...promptTokenIds, ...tokenIds];
  const vocab = engine.info.model.vocabSize;
  const logits = await engine.logits(ids);
  const rowBefore = (position: number) => logits.subarray((position - 1) * vocab, position * vocab);
  expect(logprobs!.map(({ id }) => id)).toEqual(tokenIds);
  expect(promptLogprobs!.length).toBe(promptTokenIds.length);
  expect(promptLogprobs![0]).toBeNull();
  for (const [i, token] of logprobs!.entries()) {
    expectLogprob(token, rowBefore(promptTokenIds.length + i), 5);
  }
  for (const [i, token] of promptLogprobs!.entries()) {
    if (token === null) continue;
    expect(token.id).toBe(promptTokenIds[i]);
    expectLogprob(token, rowBefore(i), 2);
  }
});

it("deltas carry the log-probabilities of their tokens", async () => {
  const request = { prompt, maxTokens: 10, temperature: 0, logprobs: 1, promptLogprobs: 0 };
  const expected = await engine.generate(request);
  const streamed: TokenLogprob[] = [];
  for await (const { tokenIds, logprobs } of engine.generate(request)) {
    expect((logprobs ?? []).map(({ id }) => id)).toEqual(tokenIds);
    streamed.push(...(logprobs ?? []));
  }
  expect(streamed).toEqual(expected.logprobs);
  const without = await engine.generate({ prompt, maxTokens: 1 });
  expect("logprobs" in without || "promptLogprobs" in without).toBe(false);
});

it("a long prompt is scored in chunks, and cancelling ends that", async () => {
  const ids = Int32Array.from({ length: 300 }, (_, i) => (i * 37) % 500);
  const { promptLogprobs } = await engine.generate({
    prompt: ids,
    maxTokens: 1,
    promptLogprobs: 1,
  });
  expect(promptLogprobs!.slice(1).map((token) => token!.id)).toEqual([...ids.slice(1)]);
  const generation = engine.generate({ prompt: ids, maxTokens: 1, promptLogprobs: 1 });
  setImmediate(() => generation.cancel());
  await expect(generation).rejects.toMatchObject({ code: "ERR_ABORTED" });
});

it("bad words do not appear, with or without a space before", async () => {
  const request = { prompt, maxTokens: 60, ignoreEos: true };
  const words = ["girl", "boy", "was", "the", "day"];
  const isIn = (text: string): boolean => words.some((word) => text.split(/\W+/).includes(word));
  const seeds = [1, 2, 3, 4, 5, 6];
  const texts = await Promise.all(seeds.map((seed) => engine.generate({ ...request, seed })));
  expect(texts.some(({ text }) => isIn(text))).toBe(true);
  for (const seed of seeds) {
    const { text } = await engine.generate({ ...request, seed, badWords: words });
    expect(text.split(/\W+/).filter((word) => words.includes(word))).toEqual([]);
  }
});

it("allowed tokens are the only ones, and ruling out all of them is an error", async () => {
  const allowedTokenIds = [300, 301, 400];
  const request = { prompt, maxTokens: 20, allowedTokenIds };
  const { tokenIds } = await engine.generate({ ...request, temperature: 2, seed: 1 });
  expect(tokenIds.every((id) => allowedTokenIds.includes(id))).toBe(true);
  const [eos] = engine.info.model.eosTokenIds;
  const impossible = engine.generate({ prompt, minTokens: 1, allowedTokenIds: [eos!] });
  await expect(impossible).rejects.toMatchObject({ code: "ERR_NON_FINITE" });
});

it("minTokens holds off end-of-sequence tokens, stop tokens and stop texts", async () => {
  const messages = [{ role: "user", content: "Hello" }];
  const short = await engine.chat({ messages, temperature: 0 });
  expect(short.finishReason).toBe("stop");
  const minTokens = short.tokenIds.length + 10;
  const longer = await engine.chat({ messages, temperature: 0, minTokens });
  expect(longer.tokenIds.length).toBeGreaterThanOrEqual(minTokens);
  const stop = await engine.generate({
    prompt,
    minTokens: 15,
    maxTokens: 40,
    seed: 1,
    stop: [" "],
  });
  expect(stop.tokenIds.length).toBeGreaterThanOrEqual(15);
  expect(stop.finishReason).toBe("stop");
  expect(stop.text).toContain(" ");
});

it("includeStop keeps the stop text and the text of the stop token", async () => {
  const whole = await engine.generate({ prompt, maxTokens: 40, temperature: 0 });
  const stop = whole.text.slice(12, 15);
  const end = whole.text.indexOf(stop);
  const request = { prompt, maxTokens: 40, temperature: 0 };
  const without = await engine.generate({ ...request, stop });
  const including = await engine.generate({ ...request, stop, includeStop: true });
  expect(without.text).toBe(whole.text.slice(0, end));
  expect(including.text).toBe(whole.text.slice(0, end + stop.length));
  const stopTokenIds = [whole.tokenIds[5]!];
  const before = await engine.generate({ ...request, stopTokenIds });
  const after = await engine.generate({ ...request, stopTokenIds, includeStop: true });
  expect(after.text.startsWith(before.text)).toBe(true);
  expect(after.text.length).toBeGreaterThan(before.text.length);
  expect(whole.text.startsWith(after.text)).toBe(true);
});

it("penalties keep a greedy text from repeating itself", async () => {
  const request = { prompt: "a a a a a a", maxTokens: 80, temperature: 0, ignoreEos: true };
  const variety = async (options: Partial<GenerateRequest>): Promise<number> =>
    new Set((await engine.generate({ ...request, ...options })).tokenIds).size;
  const plain = await variety({});
  expect(await variety({ frequencyPenalty: 2 })).toBeGreaterThan(plain);
  expect(await variety({ repetitionPenalty: 1.8 })).toBeGreaterThan(plain);
  expect(await variety({ presencePenalty: 2 })).toBeGreaterThan(plain);
});

it("DRY does not go on as the text went on before", async () => {
  const common = { temperature: 0, ignoreEos: true, maxTokens: 8 };
  const once = await engine.generate({ ...common, prompt });
  const { promptTokenIds, tokenIds } = once;
  const again = { ...common, prompt: [...promptTokenIds, ...tokenIds, ...promptTokenIds] };
  const dry = { multiplier: 1000, allowedLength: 3, sequenceBreakers: [] };
  const [plain, dried, unseen] = await Promise.all([
    engine.generate(again),
    engine.generate({ ...again, dry }),
    engine.generate({ ...again, dry: { ...dry, range: promptTokenIds.length } }),
  ]);
  expect(plain.tokenIds[0]).toBe(tokenIds[0]);
  expect(dried.tokenIds[0]).not.toBe(tokenIds[0]);
  expect(unseen.tokenIds[0]).toBe(tokenIds[0]);
});

it("a logits processor acts like the option that does the same", async () => {
  const request = { prompt, maxTokens: 15, seed: 8, topP: 0.9 };
  const native = await engine.generate({ ...request, logitBias: { 300: 4 } });
  const script = await engine.generate({
    ...request,
    logitsProcessor: (_, logits) => void (logits[300]! += 4),
  });
  expect(script.tokenIds).toEqual(native.tokenIds);
  const broken = engine.generate({
    ...request,
    logitsProcessor: (_, logits) => void logits.fill(NaN),
  });
  await expect(broken).rejects.toMatchObject({ code: "ERR_NON_FINITE" });
});
