// How much of a real load can a prefix cache of a given size answer? Replays Mooncake's conversation trace (Qin et al. 2025,
// FAST'25 traces: one JSON object a line with input_length, output_length and hash_ids of 512-token blocks) through the real
// block manager, one request after another, beside an ideal cache that never forgets.
//
//   npm run build:ts && node bench/prefix-cache.mjs PATH/mooncake_conversation_trace.jsonl
//
// A block of the trace is one token of a block manager with one token a block, so that its ids are compared as tokens are.
// As in the engine, the last block of a prompt is always computed. Outputs take blocks, too, which nobody can find.
import { readFileSync } from "node:fs";
import { BlockManager, BlockTable } from "../dist/core.js";

const path = process.argv[2];
if (path === undefined) throw new Error("Usage: node bench/prefix-cache.mjs TRACE.jsonl");
const blockTokens = 512;
const requests = readFileSync(path, "utf8")
  .split("\n")
  .filter((line) => line !== "")
  .map((line) => JSON.parse(line))
  .toSorted((a, b) => a.timestamp - b.timestamp);

let firstOutput = 2 ** 30;
const sequences = requests.map(({ hash_ids, output_length }) => {
  const outputs = Math.ceil(output_length / blockTokens);
  const fresh = Array.from({ length: outputs }, () => firstOutput++);
  return { prompt: hash_ids.length, tokenIds: Int32Array.from([...hash_ids, ...fresh]) };
});
const total = sequences.reduce((sum, { prompt }) => sum + prompt, 0);
const longest = Math.max(...sequences.map(({ tokenIds }) => tokenIds.length));

/** Blocks that a cache of this many blocks finds. */
function replay(numBlocks) {
  const blocks = new BlockManager({ numBlocks: numBlocks + 1, blockSize: 1 });
  let hits = 0;
  for (const { prompt, tokenIds } of sequences) {
    const tokens = { tokenIds: tokenIds.subarray(0, prompt) };
    const table = new BlockTable();
    const prefix = blocks.findPrefix(tokens, undefined);
    hits += prefix.blocks.length;
    blocks.adopt(table, prefix);
    if (!blocks.allocate(table, tokenIds.length - table.numTokens)) throw new Error("too small");
    blocks.markComputed(table, { tokenIds }, tokenIds.length);
    blocks.free(table);
  }
  return hits;
}

/** Blocks that a cache that never forgets finds. */
function ideal() {
  const seen = new Set();
  let hits = 0;
  for (const { prompt, tokenIds } of sequences) {
    let i = 0;
    while (i < prompt - 1 && seen.has(tokenIds[i])) i++;
    hits += i;
    for (let j = 0; j < prompt; j++) seen.add(tokenIds[j]);
  }
  return { hits, distinct: seen.size };
}

const best = ideal();
const percent = (value) => `${(100 * value).toFixed(1)} %`.padStart(8);
console.log(
  `${requests.length} requests, ${total} blocks of ${blockTokens} tokens, ${best.distinct} distinct`,
);
console.log("     blocks    tokens  hit rate  of ideal   ms");
for (const numBlocks of [1000, 3000, 10_000, 30_000, 100_000, 300_000]) {
  if (numBlocks < longest) continue;
  const start = performance.now();
  const hits = replay(numBlocks);
  const milliseconds = (performance.now() - start).toFixed(0).padStart(4);
  const tokens = `${((numBlocks * blockTokens) / 1e6).toFixed(1)} M`.padStart(9);
  const rates = `${percent(hits / total)}  ${percent(hits / best.hits)}`;
  console.log(`${String(numBlocks).padStart(11)} ${tokens}  ${rates} ${milliseconds}`);
}
console.log(`   infinite         -  ${percent(best.hits / total)}  ${percent(1)}`);
