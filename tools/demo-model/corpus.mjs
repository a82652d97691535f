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

import { evaluationPrompts, makeDocument, seedOf } from "./corpus/documents.mjs";

async function writeDocuments(path, seed, count) {
  const file = createWriteStream(path);
  for (let number = 0; number < count; number++) {
    const line = JSON.stringify(makeDocument(seed, number)) + "\n";
    if (!file.write(line)) await once(file, "drain");
  }
  file.end();
  await once(file, "finish");
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
  const seed = Number(values.seed);
  mkdirSync(values.out, { recursive: true });
  for (const split of ["train", "held-out"]) {
    const path = join(values.out, `${split}.jsonl`);
    await writeDocuments(path, seedOf(split, seed), Number(values[split]));
  }
  for (const [name, prompts] of Object.entries(evaluationPrompts(seed))) {
    writeJson(join(values.out, `eval-${name}.json`), prompts);
  }
}

await main();
