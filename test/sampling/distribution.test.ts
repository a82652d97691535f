import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import { processLogits } from "../../lib/reference/logits-processors.js";
import { makeControls, type RowControls } from "../support/controls.js";
import { executorKinds } from "../support/executors.js";
import { createRandom } from "../support/random.js";
import { createSampler, sampleRows, type SampledRow } from "../support/sampler.js";

/**
 * What is drawn is compared with this file's own arithmetic: plain float64 over arrays of pairs, written from the papers and
 * from vLLM's and llama.cpp's documentation, and sharing nothing with the op or its reference.
 */

const vocabSize = 12;
const logits = [0.3, 2.1, -1.2, 1.4, 0.9, -0.5, 1.9, -2.2, 0.1, 1.1, -0.1, 0.6];
const history = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1, 5];
const numPromptTokens = 6;

type Weights = number[];

/** Draws at 4096 positions under two seeds. */
const draws = 2 * 4096;

function softmax(values: readonly number[], temperature = 1): Weights {
  const exponentials = values.map((x) => Math.exp(x / temperature));
  const total = sum(exponentials);
  return exponentials.map((x) => x / total);
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

function normalized(weights: Weights): Weights {
  const total = sum(weights);
  return weights.map((w) => w / total);
}

/** Keeps tokens in the given order until their share reaches `share`. */
function keepUntil(p: Weights, order: readonly number[], share: number): Weights {
  const kept = new Set<number>();
  let reached = 0;
  for (const token of order) {
    if (reached >= share) break;
    kept.add(token);
    reached += p[token]!;
  }
  return normalized(p.map((w, token) => (kept.has(token) ? w : 0)));
}

const byProbability = (p: Weights): number[] =>
  [...p.keys()].filter((t) => p[t]! > 0).sort((a, b) => p[b]! - p[a]! || a - b);

function typical(p: Weights, share: number): Weights {
  const entropy = -sum(p.filter((w) => w > 0).map((w) => w * Math.log(w)));
  const distance = (t: number): number => Math.abs(-Math.log(p[t]!) - entropy);
  const order = byProbability(p).sort((a, b) => distance(a) - distance(b) || a - b);
  return keepUntil(p, order, share);
}

/** With the probability, all above the threshold but the least probable one go. */
function xtc(p: Weights, probability: number, threshold: number): Weights {
  const top = byProbability(p).filter((t) => p[t]! >= threshold);
  if (top.length < 2) return p;
  const gone = new Set(top.slice(0, -1));
  const without = normalized(p.map((w, t) => (gone.has(t) ? 0 : w)));
  return p.map((w, t) => (1 - probability) * w + probability * without[t]!);
}

function count(tokens: readonly number[], token: number): number {
  return tokens.filter((t) => t === token).length;
}

function penalized(repetition: number, frequency: number, presence: number): number[] {
  const output = history.slice(numPromptTokens);
  return logits.map((logit, token) => {
    const repeated = logit > 0 ? logit / repetition : logit * repetition;
    const base = history.includes(token) ? repeated : logit;
    const times = count(output, token);
    return base - frequency * times - (times > 0 ? presence : 0);
  });
}

/** The longest n for which the last n tokens were followed by `token` before. */
function repeatLength(
  tokens: readonly number[],
  token: number,
  breakers: readonly number[],
): number {
  for (let n = tokens.length - 1; n > 0; n--) {
    const end = tokens.slice(-n);
    if (end.some((t) => breakers.includes(t))) continue;
    for (let start = 0; start + n < tokens.length; start++) {
      const isMatch = end.every((t, i) => tokens[start + i] === t);
      if (isMatch && tokens[start + n] === token) return n;
    }
  }
  return 0;
}

function dried(
  [multiplier, base, allowed, range]: readonly [number, number, number, number],
  breakers: readonly number[] = [],
): number[] {
  const tokens = history.slice(-range);
  return logits.map((logit, token) => {
    const n = breakers.includes(token) ? 0 : repeatLength(tokens, token, breakers);
    return n >= allowed ? logit - multiplier * base ** (n - allowed) : logit;
  });
}

const mask = (keep: (token: number) => boolean): number[] =>
  logits.map((logit, token) => (keep(token) ? logit : -Infinity));

/** Each control with the logits that it must lead to. */
const processed: [string, RowControls, number[]][] = [
  ["allowed", { allowed: [1, 4, 7] }, mask((t) => [1, 4, 7].includes(t))],
  ["banned", { banned: [1, 6, 1] }, mask((t) => t !== 1 && t !== 6)],
  [
    "bias",
    { biased: new Map([[2, 3.5], [6, -100]]) }, // prettier-ignore
    logits.map((x, t) => (t === 2 ? x + 3.5 : t === 6 ? x - 100 : x)),
  ],
  ["repetition", { history, numPromptTokens, repetitionPenalty: 1.5 }, penalized(1.5, 0, 0)],
  ["frequency", { history, numPromptTokens, frequencyPenalty: 0.7 }, penalized(1, 0.7, 0)],
  ["presence", { history, numPromptTokens, presencePenalty: -0.9 }, penalized(1, 0, -0.9)],
  [
    "all penalties",
    {
      history,
      numPromptTokens,
      repetitionPenalty: 0.8,
      frequencyPenalty: -0.4,
      presencePenalty: 1.1,
    },
    penalized(0.8, -0.4, 1.1),
  ],
  ["DRY", { history, dry: [0.8, 1.75, 2, 1000] }, dried([0.8, 1.75, 2, 1000])],
  ["DRY, all lengths", { history, dry: [0.5, 2, 1, 1000] }, dried([0.5, 2, 1, 1000])],
  ["DRY, short range", { history, dry: [1, 2, 1, 6] }, dried([1, 2, 1, 6])],
  ["DRY, a breaker", { history, dry: [1, 2, 1, 99], dryBreakers: [4] }, dried([1, 2, 1, 99], [4])],
  ["DRY, ends with a breaker", { history, dry: [1, 2, 1, 99], dryBreakers: [5] }, logits],
];

const plain = softmax(logits);
const filters: [string, Partial<SampledRow>, Weights][] = [
  ["nothing", {}, plain],
  ["temperature", { temperature: 0.6 }, softmax(logits, 0.6)],
  ["topP", { topP: 0.7 }, keepUntil(plain, byProbability(plain), 0.7)],
  ["topK", { topK: 4 }, keepUntil(plain, byProbability(plain).slice(0, 4), 1)],
  ["minP", { minP: 0.3 }, normalized(plain.map((w) => (w >= 0.3 * Math.max(...plain) ? w : 0)))],
  ["typicalP", { controls: { typicalP: 0.5 } }, typical(plain, 0.5)],
  ["typicalP 0.9", { controls: { typicalP: 0.9 } }, typical(plain, 0.9)],
  ["XTC always", { controls: { xtc: [1, 0.08] } }, xtc(plain, 1, 0.08)],
  ["XTC sometimes", { controls: { xtc: [0.4, 0.1] } }, xtc(plain, 0.4, 0.1)],
  ["XTC with one above", { controls: { xtc: [1, 0.25] } }, plain],
  [
    "topK, typicalP, topP and XTC in this order",
    { topK: 9, topP: 0.8, controls: { typicalP: 0.85, xtc: [0.5, 0.1] } },
    (() => {
      const k = keepUntil(plain, byProbability(plain).slice(0, 9), 1);
      const t = typical(k, 0.85);
      return xtc(keepUntil(t, byProbability(t), 0.8), 0.5, 0.1);
    })(),
  ],
  ...processed
    .filter(([name]) => !name.includes("ends with"))
    .map(([name, controls, values]): [string, Partial<SampledRow>, Weights] => [
      name,
      { controls },
      softmax(values),
    ]),
];

/** 99.9th percentile of chi-square, Wilson and Hilferty's approximation. */
function chiSquareLimit(degrees: number): number {
  const a = 2 / (9 * degrees);
  return degrees * (1 - a + 3.09 * Math.sqrt(a)) ** 3;
}

it.each(processed)("%s changes the logits as written down", (_, controls, expected) => {
  const actual = processLogits(Float32Array.from(logits), makeControls([controls]), 0);
  for (const [token, value] of expected.entries()) {
    if (value === -Infinity) expect(actual[token]).toBe(-Infinity);
    else expect(actual[token]).toBeCloseTo(value, 4);
  }
});

it("the DRY cases have something to penalize", () => {
  expect(dried([0.8, 1.75, 2, 1000])).not.toEqual(logits);
  expect(dried([1, 2, 1, 99], [4])).not.toEqual(dried([1, 2, 1, 99]));
});

const kinds = (await executorKinds()).filter(({ mayLackOps }) => !mayLackOps);

describe.each(kinds)("sampling on $name", (kind) => {
  let executor: Executor;
  beforeAll(async () => {
    ({ executor } = await createSampler(kind, vocabSize, 4096));
  });
  afterAll(() => executor.close());

  async function frequencies(row: SampledRow): Promise<number[]> {
    const counts = Array.from({ length: vocabSize }, () => 0);
    for (let seed = 1; seed <= 2; seed++) {
      const rows = Array.from({ length: 4096 }, (_, position) => ({ ...row, seed, position }));
      const { tokens, finite } = await sampleRows(executor, rows);
      expect(finite.every((f) => f === 1)).toBe(true);
      for (const token of tokens) counts[token]!++;
    }
    return counts;
  }

  it.each(filters)("draws by the probabilities after %s", async (_, options, expected) => {
    const counts = await frequencies({ logits, ...options });
    let chiSquare = 0;
    let degrees = -1;
    for (const [token, p] of expected.entries()) {
      if (p * draws < 1e-6) expect([token, counts[token]]).toEqual([token, 0]);
      if (p * draws < 5) continue;
      chiSquare += (counts[token]! - p * draws) ** 2 / (p * draws);
      degrees++;
    }
    expect(chiSquare).toBeLessThan(degrees === 0 ? 1e-9 : chiSquareLimit(degrees));
  });

  it("log-probabilities are the log-softmax of the logits as they came", async () => {
    const random = createRandom(5);
    const rows = Array.from({ length: 50 }, (_, position): SampledRow => {
      const values = [...random.normals(vocabSize, 4)];
      return { logits: values, position, logprobs: 12, controls: { banned: [0], typicalP: 0.9 } };
    });
    const { tokens, logprobs } = await sampleRows(executor, rows);
    for (const [row, { logits: values }] of rows.entries()) {
      const p = softmax(values);
      const order = byProbability(p);
      const top = [...logprobs!.topLogprobs.subarray(row * 12, row * 12 + 12)];
      expect([...logprobs!.topIds.subarray(row * 12, row * 12 + 12)]).toEqual(order);
      for (const [i, id] of order.entries()) expect(top[i]).toBeCloseTo(Math.log(p[id]!), 4);
      expect(sum(top.map(Math.exp))).toBeCloseTo(1, 5);
      expect(logprobs!.logprob[row]).toBeCloseTo(Math.log(p[tokens[row]!]!), 4);
      expect(logprobs!.rank[row]).toBe(1 + order.indexOf(tokens[row]!));
    }
  });

  it("never draws a masked token, whatever the parameters", async () => {
    const random = createRandom(9);
    const ids = (size: number): number[] =>
      [...new Set(Array.from({ length: size }, () => random.integer(vocabSize)))].sort(
        (a, b) => a - b,
      );
    const rows = Array.from({ length: 2000 }, (_, position): SampledRow => {
      const controls: RowControls = {
        allowed: random.integer(2) === 0 ? [] : ids(5),
        banned: ids(4),
        biased: new Map(ids(4).map((id) => [id, 100 - random.integer(200)])),
        history: Array.from({ length: random.integer(30) }, () => random.integer(vocabSize)),
        repetitionPenalty: 0.5 + random.uniform(),
        frequencyPenalty: random.uniform() * 4 - 2,
        presencePenalty: random.uniform() * 4 - 2,
        dry: [random.uniform() * 3, 1 + random.uniform(), 1 + random.integer(3), 20],
        typicalP: 0.01 + 0.99 * random.uniform(),
        xtc: [random.uniform(), random.uniform() / 2],
      };
      const filter = { topK: random.integer(9), topP: 0.1 + 0.9 * random.uniform() };
      const temperature = random.integer(4) === 0 ? 0 : 0.1 + random.uniform() * 3;
      return {
        logits: [...random.normals(vocabSize, 3)],
        position,
        temperature,
        ...filter,
        controls,
      };
    });
    const together = await sampleRows(executor, rows);
    for (const [row, { controls }] of rows.entries()) {
      const isAllowed = (t: number): boolean =>
        (controls!.allowed!.length === 0 || controls!.allowed!.includes(t)) &&
        !controls!.banned!.includes(t);
      const isAny = Array.from({ length: vocabSize }, (_, t) => t).some(isAllowed);
      expect([row, together.finite[row]]).toEqual([row, isAny ? 1 : 0]);
      if (isAny) expect([row, isAllowed(together.tokens[row]!)]).toEqual([row, true]);
    }
    for (const row of [0, 1, 77, 500, 1999]) {
      const alone = await sampleRows(executor, [rows[row]!]);
      expect(alone.tokens[0]).toBe(together.tokens[row]);
    }
  });

  it("neutral controls draw the same tokens as none", async () => {
    const random = createRandom(3);
    const rows = Array.from({ length: 500 }, (_, position): SampledRow => {
      return { logits: [...random.normals(vocabSize, 2)], position, topP: 0.9, temperature: 1.3 };
    });
    const neutral: RowControls = { history, numPromptTokens, repetitionPenalty: 1, xtc: [0, 0] };
    const without = await sampleRows(executor, rows);
    const more = { controls: neutral, logprobs: 2 };
    const controlled = rows.map((row) => Object.assign({}, row, more));
    expect((await sampleRows(executor, controlled)).tokens).toEqual(without.tokens);
  });
});
