// Chat documents: a system message now and then, one turn or several.

import { copyTurns, memoryTurns } from "./copying.mjs";
import { jsonTurn } from "./json.mjs";
import { oneWordTurn, qaTurn } from "./qa.mjs";
import { storyTurn } from "./stories.mjs";
import { anySumTurn } from "./sums.mjs";

export const endOfTurn = "<|im_end|>";

function message(role, content) {
  return `<|im_start|>${role}\n${content}${endOfTurn}\n`;
}

/** Renders a conversation as the chat template of the tokenizer does. */
function render(system, turns) {
  const head = system ? message("system", system) : "";
  return (
    head + turns.map((t) => message("user", t.user) + message("assistant", t.assistant)).join("")
  );
}

const systemMessages = [
  "You are a helpful assistant.",
  "You are Pagoda's demo model.",
  "You are a friendly assistant. Answer in simple words.",
  "Be brief and correct.",
];

const oneWordSystem = "Answer in one word.";

function anySystem(c) {
  return c.chance(0.3) ? c.pick(systemMessages) : null;
}

/** Mostly one turn, sometimes a few more. */
function turnCount(c) {
  return c.weighted([
    [6, 1],
    [2, 2],
    [1, 3],
    [1, 4],
  ]);
}

const repeat = (count, make) => Array.from({ length: count }, make);

/** A conversation whose turns all come from one family. */
function uniform(c, turn) {
  return render(
    anySystem(c),
    repeat(turnCount(c), () => turn(c)),
  );
}

export const sumsChat = (c) => uniform(c, anySumTurn);
export const jsonChat = (c) => uniform(c, jsonTurn);
export const copyChat = (c) => uniform(c, (c) => c.pick(copyTurns)(c));
export const storyChat = (c) => render(anySystem(c), [storyTurn(c)]);

export function qaChat(c) {
  const announced = c.chance(0.15);
  if (announced) {
    return render(
      oneWordSystem,
      repeat(turnCount(c), () => oneWordTurn(c, { announced })),
    );
  }
  const turn = (c) => (c.chance(0.1) ? oneWordTurn(c, { announced }) : qaTurn(c));
  return uniform(c, turn);
}

const anyTurn = (c) =>
  c.weighted([
    [4, qaTurn],
    [4, anySumTurn],
    [3, jsonTurn],
    [2, (c) => c.pick(copyTurns.slice(0, 2))(c)],
    [0.4, storyTurn],
  ])(c);

/** A longer conversation of mixed turns that tells things first and asks for them later. */
export function mixedChat(c) {
  const memories = memoryTurns(c, c.between(1, 3));
  const between = repeat(c.between(1, 14), () => anyTurn(c));
  const asked = c.sample(memories, memories.length);
  const turns = [...memories.map((m) => m.tell), ...between, ...asked.map((m) => m.ask)];
  return render(anySystem(c), turns);
}
