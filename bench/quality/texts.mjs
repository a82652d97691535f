import { readFileSync } from "node:fs";
import {
  evaluationPrompts,
  makeDocument,
  seedOf,
} from "../../tools/demo-model/corpus/documents.mjs";

/** Token ids of held-out documents of the demo model, each between two ends of text, as tools/demo-model measures them. */
export function demoDocuments(tokenizer, count, maxLength) {
  const end = 0; // <|endoftext|>
  const texts = Array.from(
    { length: count },
    (_, number) => makeDocument(seedOf("held-out"), number).text,
  );
  return encodeAll(tokenizer, texts, (ids) => [end, ...ids.slice(0, maxLength - 2), end]);
}

/** Token ids of a text file, cut into windows of `length`. */
export async function textWindows(tokenizer, file, count, length) {
  const ids = Array.from(await tokenizer.encode(readFileSync(file, "utf8")));
  const starts = Array.from({ length: Math.ceil(ids.length / length) }, (_, i) => i * length);
  const windows = starts.map((start) => ids.slice(start, start + length));
  return windows.filter((window) => window.length > 1).slice(0, count);
}

/**
 * What the demo model is asked (docs/demo-model.md): held-out sums, held-out JSON prompts and facts, as token ids with the
 * answers and the most tokens that an answer may have.
 */
export async function demoTasks(tokenizer) {
  const maxTokens = { sums: 16, json: 80, qa: 48 };
  const tasks = [];
  for (const [name, prompts] of Object.entries(evaluationPrompts())) {
    const render = ({ messages }) =>
      tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
    const texts = await Promise.all(prompts.map(render));
    const ids = await encodeAll(tokenizer, texts, (prompt) => prompt);
    const cases = ids.map((prompt, i) => ({ prompt, answer: prompts[i].answer }));
    tasks.push({ name, maxTokens: maxTokens[name], cases });
  }
  return tasks;
}

async function encodeAll(tokenizer, texts, make) {
  const encode = (text) => tokenizer.encode(text, { addSpecialTokens: false });
  const lists = await Promise.all(texts.map(encode));
  return lists.map((ids) => make(Array.from(ids)));
}
