// How much KV memory do paging and sharing save? Reproduces the memory figures of the PagedAttention paper (Kwon et al. 2023,
// arXiv:2309.06180: figures 2 and 15) by driving the real block manager with blocks of 16 tokens; no model runs.
//
//   npm run build:ts && node bench/kv-memory.mjs [REQUESTS]
//
// Lengths are lognormal with the means that the paper gives for Alpaca (prompts 19.31, outputs 58.45) and ShareGPT (161.31,
// 337.99). Beams are modelled: in each step a beam goes on from its own parent with probability q, else from any beam.
//
// At the end, what KV groups save: one request of a model in which most layers have a sliding window, such as gemma3 1B (26
// layers, each 6th of which sees all tokens, window 512), prefilled in chunks and then decoded, with groups and with all
// layers in one group that gives nothing back. Counted are layer blocks: memory for 16 tokens in one layer.
import { BlockManager, BlockTable } from "../dist/core.js";
import { groupKvLayers, kvSlots } from "../dist/graph/kv-groups.js";

const numRequests = Number(process.argv[2] ?? 2000);
const blockSize = 16;
const maxReserved = 2048;

const loads = {
  Alpaca: { prompt: { mean: 19.31, shape: 0.7 }, output: { mean: 58.45, shape: 1 } },
  ShareGPT: { prompt: { mean: 161.31, shape: 1.2 }, output: { mean: 337.99, shape: 1 } },
};

const paper = {
  used: { max: 20.4, pow2: 26.8, oracle: 38.2, paged: 96.3 },
  Alpaca: { parallel: [6.09, 8.53, 9.79], beam: [37.56, 53.13, 55.16] },
  ShareGPT: { parallel: ["16.2", "...", "30.5"], beam: ["44.3", "...", "66.3"] },
};

/** Uniform in (0, 1), by the seed alone (a multiply-xorshift counter). */
function createRandom(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return (((word ^ (word >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
}

function lognormal(random, { mean, shape }, limit) {
  const normal = Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
  const value = Math.exp(Math.log(mean) - shape ** 2 / 2 + shape * normal);
  return Math.min(limit, Math.max(1, Math.round(value)));
}

function lengthsOf({ prompt, output }) {
  const random = createRandom(1);
  return Array.from({ length: numRequests }, () => ({
    prompt: lognormal(random, prompt, 1024),
    output: lognormal(random, output, 1024),
  }));
}

/** A manager for one request, with the tables of its samples; the prompt is computed. */
function begin(prompt, numTables) {
  const blocks = new BlockManager({
    numBlocks: 1 + numTables * 140,
    blockSize,
    prefixSharing: false,
  });
  const first = new BlockTable();
  blocks.allocate(first, prompt);
  const tables = [first];
  while (tables.length < numTables) tables.push(fork(blocks, first));
  return { blocks, tables };
}

function fork(blocks, parent) {
  const child = new BlockTable();
  blocks.fork(parent, child);
  return child;
}

/** Each table gets a token. */
function grow(blocks, tables) {
  for (const table of tables) {
    if (!blocks.allocate(table, 1)) throw new Error("the pool is too small");
  }
  blocks.takeCopies();
  blocks.finishStep();
}

const usedBlocks = (blocks) => blocks.numUsableBlocks - blocks.numFreeBlocks;

/** Share of reserved slots that hold tokens, over all steps of all requests. */
function utilisation(lengths) {
  const sums = { tokens: 0, max: 0, pow2: 0, oracle: 0, paged: 0, paged8: 0, paged4: 0 };
  for (const { prompt, output } of lengths) {
    const { blocks, tables } = begin(prompt, 1);
    for (let t = 0; t <= output; t++) {
      if (t > 0) grow(blocks, tables);
      sums.tokens += prompt + t;
      sums.max += maxReserved;
      sums.pow2 += prompt + 2 ** Math.ceil(Math.log2(output));
      sums.oracle += prompt + output;
      sums.paged += usedBlocks(blocks) * blockSize;
      for (const size of [8, 4]) sums[`paged${size}`] += Math.ceil((prompt + t) / size) * size;
    }
  }
  const share = (kind) => (100 * sums.tokens) / sums[kind];
  return Object.fromEntries(Object.keys(sums).map((kind) => [kind, share(kind)]));
}

/** Blocks saved by sharing in percent of the blocks without, over all steps of all requests. */
function savings(lengths, numTables, step) {
  let saved = 0;
  let total = 0;
  for (const { prompt, output } of lengths) {
    const { blocks, tables } = begin(prompt, numTables);
    for (let t = 0; t <= output; t++) {
      if (t > 0) step(blocks, tables);
      const without = numTables * blocks.blocksFor(prompt + t);
      total += without;
      saved += without - usedBlocks(blocks);
    }
  }
  return (100 * saved) / total;
}

/** A step of beam search: children first, then parents without any go. */
function beamStep(q, random) {
  return (blocks, tables) => {
    const parents = tables.map((table) =>
      random() < q ? table : tables[Math.floor(random() * tables.length)],
    );
    const kept = new Set();
    const next = parents.map((parent) => {
      if (kept.has(parent)) return fork(blocks, parent);
      kept.add(parent);
      return parent;
    });
    for (const table of tables) if (!kept.has(table)) blocks.free(table);
    tables.splice(0, tables.length, ...next);
    grow(blocks, tables);
  };
}

const cell = (value) => (typeof value === "number" ? value.toFixed(1) : value).padStart(7);
const row = (name, values) => console.log(`${name.padEnd(30)}${values.map(cell).join(" ")}`);
const widths = [2, 4, 6];

for (const [name, load] of Object.entries(loads)) {
  const lengths = lengthsOf(load);
  console.log(`\n${name}-like, ${numRequests} requests, blocks of ${blockSize} tokens`);
  console.log("share of KV memory that holds tokens, %");
  row("  reservation", ["max", "pow2", "oracle", "paged"]);
  const { max, pow2, oracle, paged, paged8, paged4 } = utilisation(lengths);
  row("  here", [max, pow2, oracle, paged]);
  row("    blocks of 8", ["", "", "", paged8]);
  row("    blocks of 4", ["", "", "", paged4]);
  if (name === "ShareGPT") row("  paper, figure 2", Object.values(paper.used));
  console.log("blocks saved by sharing, %");
  row("  samples or beams", widths.map(String));
  row(
    "  parallel sampling",
    widths.map((n) => savings(lengths, n, grow)),
  );
  row("    paper, figure 15", paper[name].parallel);
  for (const q of [0.9, 0.95]) {
    const values = widths.map((n) => savings(lengths, n, beamStep(q, createRandom(n))));
    row(`  beam search, q = ${q}`, values);
  }
  row("    paper, figure 15", paper[name].beam);
}

/** Layer blocks that one request holds after its last step, and at most in any, with these layers in KV groups. */
function hybridBlocks(layers, context, { chunk, output }) {
  const { kvGroups, kvLayers } = groupKvLayers(layers);
  const numSlots = kvSlots({ kvLayers }).length;
  const numBlocks = 1 + kvGroups.length * Math.ceil(context / blockSize);
  const blocks = new BlockManager({ numBlocks, blockSize, kvGroups, prefixSharing: false });
  const table = new BlockTable();
  const tokens = { tokenIds: new Int32Array(context) };
  let most = 0;
  while (table.numTokens < context) {
    const prompt = context - output - table.numTokens;
    if (!blocks.allocate(table, prompt > 0 ? Math.min(chunk, prompt) : 1)) throw new Error("full");
    most = Math.max(most, table.numHeldBlocks);
    blocks.markComputed(table, tokens, table.numTokens);
  }
  return { end: numSlots * table.numHeldBlocks, most: numSlots * most };
}

const hybrid = Array.from({ length: 26 }, (_, i) => {
  return { numKvHeads: 1, headDim: 256, slidingWindow: (i + 1) % 6 === 0 ? 0 : 512 };
});
const whole = hybrid.map((layer) => ({ ...layer, slidingWindow: 0 }));
const contexts = [512, 4096, 8192, 32768];
console.log("\n26 layers, each 6th without a window of 512 tokens: layer blocks of one request");
row("  context, tokens", contexts.map(String));
row(
  "  one group",
  contexts.map((n) => String(hybridBlocks(whole, n, { chunk: 2048, output: 64 }).end)),
);
for (const chunk of [512, 2048]) {
  const counts = contexts.map((n) => hybridBlocks(hybrid, n, { chunk, output: 64 }));
  const decoding = counts.map(({ end }) => String(end));
  if (chunk === 512) row("  groups, decoding", decoding);
  const prefill = counts.map(({ most }) => String(most));
  row(`  groups, prefill by ${chunk}`, prefill);
}
