import type { SamplingInput } from "../../lib/engine/step.js";
import { makeControls, type RowControls } from "../support/controls.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

interface Row {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  target?: number;
  /** @default -1: none */
  logprobs?: number;
  controls?: RowControls;
  /** Changes the row's logits. */
  edit?: (logits: Float32Array) => void;
}

/** Tokens must be equal: random numbers, filters and probabilities are defined to the last detail. */
function sampleCase(name: string, vocabSize: number, rows: readonly Row[]): OpCase {
  const random = createRandom(vocabSize * 1000 + rows.length);
  const logits = random.normals(rows.length * vocabSize, 2);
  for (const [row, { edit }] of rows.entries())
    edit?.(logits.subarray(row * vocabSize, (row + 1) * vocabSize));
  const sampling: SamplingInput = {
    temperature: Float32Array.from(rows, (row) => row.temperature ?? 1),
    topK: Int32Array.from(rows, (row) => row.topK ?? 0),
    topP: Float32Array.from(rows, (row) => row.topP ?? 1),
    minP: Float32Array.from(rows, (row) => row.minP ?? 0),
    ...(rows.some((row) => row.target !== undefined) && {
      targets: Int32Array.from(rows, (row) => row.target ?? -1),
    }),
    ...(rows.some((row) => row.logprobs !== undefined) && {
      numLogprobs: Int32Array.from(rows, (row) => row.logprobs ?? -1),
    }),
    ...(rows.some((row) => row.controls !== undefined) && {
      controls: makeControls(rows.map((row) => row.controls ?? {})),
    }),
    seed: Uint32Array.from({ length: 2 * rows.length }, () => random.integer(2 ** 32)),
    position: Int32Array.from(rows, () => random.integer(100_000)),
  };
  return {
    name,
    tensors: { logits: { rows: "outputs", width: vocabSize, isOutput: true } },
    ops: [{ op: "sample", inputs: ["logits"] }],
    vocabSize,
    runs: [{ step: { ...plainStep(rows.length), sampling }, data: { logits } }],
  };
}

const times = (count: number, row: Row): Row[] => Array.from({ length: count }, () => row);

const filters: Row[] = [
  { temperature: 0.7 },
  { temperature: 3, topK: 1 },
  { temperature: 1.5, topK: 5 },
  { temperature: 2, topP: 0.5 },
  { temperature: 2, topP: 1e-6 },
  { temperature: 2, minP: 0.2 },
  { temperature: 2, minP: 1 },
  { temperature: 4, topK: 20, topP: 0.8, minP: 0.05 },
  { temperature: 1e-3 },
  { temperature: 1000 },
];

const unusual: Row[] = [
  { temperature: 0, edit: (x) => x.fill(3) }, // ties: the lowest index
  { topK: 3, edit: (x) => x.fill(3) }, // ties are all kept
  { topP: 0.3, edit: (x) => x.fill(3) }, // the lowest indices are kept
  { edit: (x) => x.fill(-Infinity, 1) }, // one token left
  { temperature: 0, edit: (x) => x.fill(-Infinity, 0, x.length - 1) },
  { topK: 5, topP: 0.9, edit: (x) => x.fill(-Infinity, 3) },
  { edit: (x) => x.fill(-Infinity) }, // not finite
  { edit: (x) => (x[x.length - 1] = NaN) },
  { temperature: 0, edit: (x) => (x[0] = NaN) },
  { edit: (x) => (x[1] = Infinity) },
  { temperature: 1e6, edit: (x) => (x[2] = 3e38) },
  { temperature: 1e-30, edit: (x) => (x[2] = -3e38) },
];

/** Ids below `vocab`, in increasing order. */
function someIds(vocab: number, count: number, seed: number): number[] {
  const random = createRandom(seed);
  const ids = new Set(Array.from({ length: count }, () => random.integer(vocab)));
  return [...ids].sort((a, b) => a - b);
}

/** A text that repeats itself. */
const loops = Array.from({ length: 60 }, (_, i) => (i * i) % 13);

/** Each control alone, then all together, greedy and drawn. */
function controlled(vocab: number): Row[] {
  const inside = (ids: readonly number[]): number[] => ids.map((id) => id % vocab);
  const history = inside([...loops, ...someIds(vocab, 30, 1), ...loops.slice(0, 9)]);
  const each: RowControls[] = [
    { allowed: someIds(vocab, 5, 2) },
    { banned: [...someIds(vocab, 9, 3), 0, 0] },
    { biased: new Map(someIds(vocab, 6, 4).map((id, i) => [id, i * 3 - 8])) },
    { history, numPromptTokens: 20, repetitionPenalty: 1.3 },
    { history, numPromptTokens: 20, repetitionPenalty: 0.7 },
    { history, numPromptTokens: 20, frequencyPenalty: 0.6 },
    { history, numPromptTokens: 0, presencePenalty: -1.5 },
    { history, numPromptTokens: history.length, frequencyPenalty: 2, presencePenalty: 2 },
    { history, dry: [0.8, 1.75, 2, 1000] },
    { history, dry: [2, 4, 1, 12] },
    { history: history.map(() => 1 % vocab), dry: [5, 1e6, 1, 1e6] },
    { history, dry: [3, 1, 1, 0] },
    { history, dry: [3, 2, 1, 1000], dryBreakers: [history.at(-3)!] },
    { history, dry: [3, 2, 1, 1000], dryBreakers: [history.at(-1)!] },
    { typicalP: 0.9 },
    { typicalP: 0.2 },
    { typicalP: 1e-6 },
    { xtc: [1, 0.05] },
    { xtc: [0.5, 0] },
    { xtc: [1, 0.6] },
    { repetitionPenalty: 1e-30, history },
    { repetitionPenalty: 1e30, history },
  ];
  const all: RowControls = {
    allowed: Array.from({ length: vocab }, (_, i) => i).filter((i) => vocab < 4 || i % 7 !== 0),
    banned: someIds(vocab, vocab / 3, 7).filter((id) => id !== 1),
    biased: new Map(someIds(vocab, vocab / 4, 8).map((id, i) => [id, 3 - i])),
    history,
    numPromptTokens: 31,
    repetitionPenalty: 1.1,
    frequencyPenalty: 0.3,
    presencePenalty: 0.2,
    dry: [0.5, 1.5, 1, 50],
    dryBreakers: [0],
    typicalP: 0.8,
    xtc: [0.7, 0.1],
  };
  const rows = [...each, all, {}].map((controls): Row => ({ controls, temperature: 1.2 }));
  const greedy = { temperature: 0, logprobs: 3 };
  const filtered = { controls: all, topK: 9, topP: 0.9, minP: 0.01, temperature: 2, logprobs: 5 };
  return [...rows, ...rows.map((row) => Object.assign({}, row, greedy)), filtered];
}

const wantLogprobs: Row[] = [
  { logprobs: 0 },
  { logprobs: 20, temperature: 0 },
  { logprobs: 3, target: 1 },
  { target: 0, temperature: 0 },
  { logprobs: 5, edit: (x) => x.fill(2) }, // ties: lowest ids first
  { logprobs: 5, edit: (x) => x.fill(-Infinity, 1) },
  { logprobs: 2, target: 0, edit: (x) => x.fill(-Infinity, 0, x.length - 1) },
  { logprobs: 1, edit: (x) => x.fill(3e38) },
  {},
];

/** Every token is ruled out, or nearly. */
const exhausted: Row[] = [
  { controls: { allowed: [3], banned: [3] } },
  { controls: { allowed: [3], banned: [3] }, temperature: 0 },
  { controls: { banned: Array.from({ length: 65 }, (_, i) => i) } },
  { controls: { allowed: [3] }, edit: (x) => (x[3] = -Infinity) },
  { controls: { allowed: [64], biased: new Map([[64, -100]]) } },
  { controls: { banned: [0] }, edit: (x) => x.fill(-3.4e38, 1) },
];

conformance("sample", [
  ...[1, 3, 17, 65, 1000].map((vocab) =>
    sampleCase(`controls, vocabulary of ${vocab}`, vocab, controlled(vocab)),
  ),
  ...[2, 33, 1000].map((vocab) =>
    sampleCase(`log-probabilities, vocabulary of ${vocab}`, vocab, wantLogprobs),
  ),
  sampleCase("everything ruled out", 65, exhausted),
  sampleCase("greedy", 1000, times(5, { temperature: 0 })),
  ...[1, 3, 17, 65, 1000].map((vocab) =>
    sampleCase(`vocabulary of ${vocab}`, vocab, [...filters, ...filters]),
  ),
  sampleCase("many draws", 50, times(300, { temperature: 1 })),
  sampleCase("unusual rows", 65, unusual),
]);
