// Two-digit sums: plain lists of equations and chat turns.

import { Chooser } from "./chooser.mjs";
import { anyName, words } from "./words.mjs";

const low = 10;
const high = 99;
const heldOutShare = 0.1;

/** All pairs low <= a <= b <= high, shuffled by a fixed seed. */
function shuffledPairs() {
  const pairs = [];
  for (let a = low; a <= high; a++) for (let b = a; b <= high; b++) pairs.push([a, b]);
  return new Chooser(2024).sample(pairs, pairs.length);
}

const bothOrders = (pairs) =>
  pairs.flatMap(([a, b]) =>
    a === b
      ? [[a, b]]
      : [
          [a, b],
          [b, a],
        ],
  );

// A pair is held out in both orders: 48 + 27 in training would give 27 + 48 away.
const pairs = shuffledPairs();
const cut = Math.round(pairs.length * heldOutShare);
export const heldOutPairs = bothOrders(pairs.slice(0, cut));
export const trainingPairs = bothOrders(pairs.slice(cut));

const equation = (a, b) => `${a} + ${b} = ${a + b}`;

/** The one fixed form that evaluation uses. */
export function sumTurn([a, b]) {
  return { user: `What is ${a} + ${b}?`, assistant: equation(a, b) };
}

const otherTurns = [
  ([a, b]) => ({ user: `${a} + ${b} = ?`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `${a} + ${b}`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `Add ${a} and ${b}.`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `How much is ${a} plus ${b}?`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `Please compute ${a} + ${b}.`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `${a}+${b}`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `What is ${a}+${b}?`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `what is ${a} + ${b}`, assistant: equation(a, b) }),
  ([a, b]) => ({ user: `What's ${a} plus ${b}?`, assistant: equation(a, b) }),
];

const goods = words("apples coins books stamps shells marbles cards stickers");

function wordProblem(c, [a, b]) {
  const name = anyName(c);
  const good = c.pick(goods);
  const user = c.pick([
    `${name} has ${a} ${good} and gets ${b} more. How many ${good} does ${name} have now?`,
    `${name} had ${a} ${good}. Then ${name} found ${b} more. How many ${good} are there now?`,
  ]);
  return { user, assistant: `${equation(a, b)}. ${name} has ${a + b} ${good}.` };
}

/** Mostly two-digit operands; sometimes one of them, or both, are small. */
function anyPair(c) {
  if (c.chance(0.88)) return c.pick(trainingPairs);
  const small = c.between(0, 9);
  if (c.chance(0.3)) return [small, c.between(0, 9)];
  const large = c.between(10, 99);
  return c.chance(0.5) ? [small, large] : [large, small];
}

export function anySumTurn(c) {
  const pair = anyPair(c);
  return c.weighted([
    [10, () => sumTurn(pair)],
    [7, () => c.pick(otherTurns)(pair)],
    [3, () => wordProblem(c, pair)],
  ])();
}

/** A plain document: several equations, one on each line. */
export function sumsText(c) {
  const count = c.between(4, 20);
  return Array.from({ length: count }, () => equation(...anyPair(c))).join("\n") + "\n";
}
