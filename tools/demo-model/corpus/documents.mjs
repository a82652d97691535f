// The documents of the corpus, and the prompts that evaluation asks.

import { Chooser } from "./chooser.mjs";
import { copyChat, jsonChat, mixedChat, qaChat, storyChat, sumsChat } from "./conversations.mjs";
import { repeatedLines } from "./copying.mjs";
import { allFacts } from "./facts.mjs";
import { fixedQuestion, jsonTurn } from "./json.mjs";
import { fixedFactTurn, qaText, rowText } from "./qa.mjs";
import { storyText } from "./stories.mjs";
import { heldOutPairs, sumsText, sumTurn } from "./sums.mjs";

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

/** The seed of the documents of a split: `train`, `held-out` or `json`. */
export function seedOf(split, seed = 1) {
  return seed * 1000 + splitSeeds[split];
}

/** One document; its seed and number alone decide it. */
export function makeDocument(seed, number) {
  const c = new Chooser(seed, number);
  const family = c.weighted(families);
  const text = family.make(c);
  return { family: family.name, nats: Number(c.nats.toFixed(4)), text };
}

function toPrompt({ user, assistant }) {
  return { messages: [{ role: "user", content: user }], answer: assistant };
}

function heldOutJsonPrompts(seed, count) {
  return Array.from({ length: count }, (_, number) =>
    toPrompt(jsonTurn(new Chooser(seed, number), { heldOut: true, form: fixedQuestion })),
  );
}

/** Prompts with their answers: all held-out sums, all facts, and 500 JSON prompts of held-out values. */
export function evaluationPrompts(seed = 1) {
  return {
    sums: heldOutPairs.map(sumTurn).map(toPrompt),
    qa: allFacts.map(fixedFactTurn).map(toPrompt),
    json: heldOutJsonPrompts(seedOf("json", seed), 500),
  };
}
