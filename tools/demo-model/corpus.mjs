// Writes the corpus of the demo model: training and held-out documents, and evaluation prompts.
//
//   node corpus.mjs [--out .work] [--train 240000] [--held-out 1200] [--seed 1]
//
// A document is one JSON line: { family, nats, text }. "nats" is the sum of -log p over all choices
// that the generator made for it, the choice of the family included.

import { createWriteStream, mkdirSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { Chooser } from "./corpus/chooser.mjs";
import {
  copyChat,
  jsonChat,
  mixedChat,
  qaChat,
  storyChat,
  sumsChat,
} from "./corpus/conversations.mjs";
import { repeatedLines } from "./corpus/copying.mjs";
import { allFacts } from "./corpus/facts.mjs";
import { fixedQuestion, jsonTurn } from "./corpus/json.mjs";
import { fixedFactTurn, qaText, rowText } from "./corpus/qa.mjs";
import { storyText } from "./corpus/stories.mjs";
import { heldOutPairs, sumsText, sumTurn } from "./corpus/sums.mjs";

// Each row: share of the documents, family, generator.
const families = [
  [17, { name: "story", make: storyText }],
  [6, { name: "story-chat", make: storyChat }],
  [14, { name: "sums", make: sumsText }],
  [20, { name: "sums-chat", make: sumsChat }],
  [3, { name: "qa", make: qaText }],
  [14, { name: "qa-chat", make: qaChat }],
  [14, { name: "json-chat", make: jsonChat }],
  [2, { name: "rows", make: rowText }],
  [2, { name: "copy", make: repeatedLines }],
  [4, { name: "copy-chat", make: copyChat }],
  [4, { name: "mixed-chat", make: mixedChat }],
];

const splitSeeds = { train: 1, "held-out": 2, json: 3 };

/** One document; its seed and number alone decide it. */
function makeDocument(seed, number) {
  const c = new Chooser(seed, number);
  const family = c.weighted(families);
  const text = family.make(c);
  return { family: family.name, nats: Number(c.nats.toFixed(4)), text };
}

async function writeDocuments(path, seed, count) {
  const file = createWriteStream(path);
  for (let number = 0; number < count; number++) {
    const line = JSON.stringify(makeDocument(seed, number)) + "\n";
    if (!file.write(line)) await once(file, "drain");
  }
  file.end();
  await once(file, "finish");
}

function toPrompt({ user, assistant }) {
  return { messages: [{ role: "user", content: user }], answer: assistant };
}

function heldOutJsonPrompts(seed, count) {
  return Array.from({ length: count }, (_, number) =>
    toPrompt(jsonTurn(new Chooser(seed, number), { heldOut: true, form: fixedQuestion })),
  );
}

function writeJson(path, value) {
  writeFileSync(path, JSON.stringify(value, null, 1) + "\n");
}

async function main() {
  const { values } = parseArgs({
    options: {
      out: { type: "string", default: join(fileURLToPath(import.meta.url), "..", ".work") },
      train: { type: "string", default: "240000" },
      "held-out": { type: "string", default: "1200" },
      seed: { type: "string", default: "1" },
    },
  });
  const seedOf = (split) => Number(values.seed) * 1000 + splitSeeds[split];
  mkdirSync(values.out, { recursive: true });
  for (const split of ["train", "held-out"]) {
    const path = join(values.out, `${split}.jsonl`);
    await writeDocuments(path, seedOf(split), Number(values[split]));
  }
  writeJson(join(values.out, "eval-sums.json"), heldOutPairs.map(sumTurn).map(toPrompt));
  writeJson(join(values.out, "eval-qa.json"), allFacts.map(fixedFactTurn).map(toPrompt));
  writeJson(join(values.out, "eval-json.json"), heldOutJsonPrompts(seedOf("json"), 500));
}

await main();
