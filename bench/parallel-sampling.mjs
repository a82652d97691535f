// What do several outputs of one prompt cost beside one output, and beside as many requests? Each round runs all cases, with
// an empty prefix cache and a prompt of its own. Printed are medians of the rounds, and how many times the first case they are.
//
//   npm run build:ts && node bench/parallel-sampling.mjs [MODEL [PROMPT_TOKENS [OUTPUT_TOKENS [ROUNDS]]]]
import { createEngine } from "../dist/index.js";

const [model = "models/demo", ...numbers] = process.argv.slice(2);
const [promptTokens = 700, maxTokens = 64, rounds = 9] = numbers.map(Number);
const numOutputs = 8;

/** Ids that do not begin like those of another round. */
function promptOf(round, vocabSize) {
  return Array.from({ length: promptTokens }, (_, i) => (i * 7919 + round * 104_729) % vocabSize);
}

/** Reads a generation of n outputs to its end. Resolves with the time at which each of them had begun. */
async function readAll(generation, n) {
  const begun = new Set();
  let at;
  for await (const { index } of generation) {
    begun.add(index);
    if (begun.size === n) at ??= performance.now();
  }
  return at;
}

/** Runs requests of n outputs each at once. */
async function measure({ engine, requests, n }, round) {
  engine.resetPrefixCache();
  const { totalBlocks } = engine.stats();
  const prompt = promptOf(round, engine.info.model.vocabSize);
  let tokens = 0;
  let blocks = 0;
  const stopListening = engine.on("step", (step) => {
    tokens += step.tokens;
    blocks = Math.max(blocks, totalBlocks - step.freeBlocks);
  });
  const begin = performance.now();
  const times = Array.from({ length: requests }, (_, i) => {
    const request = { prompt, n, maxTokens, temperature: 1, ignoreEos: true };
    return readAll(engine.generate({ ...request, seed: round * numOutputs + i }), n);
  });
  const firstTokens = Math.max(...(await Promise.all(times))) - begin;
  const total = performance.now() - begin;
  stopListening();
  const ownTokens = requests * n * (maxTokens - 1); // an output's last token is not computed
  return { promptTokens: tokens - ownTokens, blocks, firstTokens, total };
}

function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

const sharing = await createEngine({ model });
const alone = await createEngine({ model, kvCache: { prefixSharing: false } });
const cases = [
  { name: "1 output", engine: sharing, requests: 1, n: 1 },
  { name: `n: ${numOutputs}`, engine: sharing, requests: 1, n: numOutputs },
  { name: `${numOutputs} requests, prefix sharing`, engine: sharing, requests: numOutputs, n: 1 },
  { name: `${numOutputs} requests, no sharing`, engine: alone, requests: numOutputs, n: 1 },
];
const runs = cases.map(() => []);
for (let round = 0; round <= rounds; round++) {
  for (const [i, each] of cases.entries()) {
    const measured = await measure(each, round);
    if (round > 0) runs[i].push(measured); // code is not compiled yet in the first one
  }
}
await Promise.all([sharing.close(), alone.close()]);

console.log(
  `${model}: ${promptTokens} prompt tokens, ${maxTokens} of each output, ${rounds} rounds`,
);
const columns = { promptTokens: 0, blocks: 0, firstTokens: 1, total: 1 };
const titles = ["prompt tokens", "peak blocks", "all begun, ms", "total, ms"];
console.log(" ".repeat(26) + titles.map((title) => title.padStart(19)).join(""));
const first = {};
for (const [i, { name }] of cases.entries()) {
  const cells = Object.entries(columns).map(([column, digits]) => {
    const value = median(runs[i].map((run) => run[column]));
    first[column] ??= value;
    const ratio = `(${(value / first[column]).toFixed(2)})`;
    return `${value.toFixed(digits)} ${ratio.padStart(7)}`.padStart(19);
  });
  console.log(name.padEnd(26) + cells.join(""));
}
