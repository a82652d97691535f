// Turns that can only be answered by copying from the prompt: they teach induction.

import { anyName, cities, colors, foods, madeUpName, petKinds, plainWords } from "./words.mjs";

/** A word to copy: from the table, or made up so that only the prompt can tell it. */
function copyWord(c) {
  return c.chance(0.5) ? c.pick(plainWords) : madeUpName(c).toLowerCase();
}

const words = (c, count) => Array.from({ length: count }, () => copyWord(c));

function repeatWords(c) {
  const text = words(c, c.between(1, 6)).join(" ");
  const ask = c.pick(["Repeat", "Say", "Copy", "Echo"]);
  return { user: `${ask}: ${text}`, assistant: text };
}

function firstOrLast(c) {
  const list = words(c, c.between(2, 5));
  const last = c.chance(0.5);
  const user = `What is the ${last ? "last" : "first"} word? ${list.join(" ")}`;
  return { user, assistant: last ? list[list.length - 1] : list[0] };
}

function greetByName(c) {
  const name = anyName(c);
  const user = c.pick([`My name is ${name}.`, `Hi, I am ${name}.`, `Call me ${name}.`]);
  return { user, assistant: `Nice to meet you, ${name}!` };
}

export const copyTurns = [repeatWords, firstOrLast, greetByName];

// What a user may tell about itself, and how it asks for it later.
const memories = [
  {
    value: anyName,
    tell: ["My name is {}.", "Hi, I am {}.", "Call me {}."],
    note: "Nice to meet you, {}!",
    ask: ["What is my name?", "Who am I?", "Do you remember my name?"],
    recall: "Your name is {}.",
  },
  {
    value: (c) => c.pick(colors),
    tell: ["My favorite color is {}.", "I like {} best of all colors."],
    note: "I will remember that you like {}.",
    ask: ["What is my favorite color?", "Which color do I like?"],
    recall: "Your favorite color is {}.",
  },
  {
    value: (c) => c.pick(cities),
    tell: ["I live in {}.", "My home is in {}."],
    note: "{} is a nice place to live.",
    ask: ["Where do I live?", "Which city do I live in?"],
    recall: "You live in {}.",
  },
  {
    value: (c) => c.pick(petKinds),
    tell: ["I have a {}.", "My pet is a {}."],
    note: "A {} is a lovely pet.",
    ask: ["What pet do I have?", "Which animal do I have?"],
    recall: "You have a {}.",
  },
  {
    value: (c) => c.pick(foods),
    tell: ["I love {}.", "My favorite food is {}."],
    note: "I will remember that you love {}.",
    ask: ["What food do I love?", "What is my favorite food?"],
    recall: "You love {}.",
  },
];

/** Some memories, each as a turn that tells and a turn that asks. */
export function memoryTurns(c, count) {
  return c.sample(memories, count).map((memory) => {
    const value = memory.value(c);
    const put = (text) => text.replace("{}", value);
    return {
      tell: { user: put(c.pick(memory.tell)), assistant: put(memory.note) },
      ask: { user: c.pick(memory.ask), assistant: put(memory.recall) },
    };
  });
}

/** A plain document: a line of words, written several times. */
export function repeatedLines(c) {
  const line = words(c, c.between(3, 8)).join(" ");
  return `${line}\n`.repeat(c.between(2, 5));
}
