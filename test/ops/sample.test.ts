import type { SamplingInput } from "../../lib/engine/step.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

interface Row {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
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

conformance("sample", [
  sampleCase("greedy", 1000, times(5, { temperature: 0 })),
  ...[1, 3, 17, 65, 1000].map((vocab) =>
    sampleCase(`vocabulary of ${vocab}`, vocab, [...filters, ...filters]),
  ),
  sampleCase("many draws", 50, times(300, { temperature: 1 })),
  sampleCase("unusual rows", 65, unusual),
]);
