// Questions and answers: facts, computed answers, small talk, and questions beyond the model.

import { categories, letters, months, numberWords } from "./facts.mjs";
import { casually, colors, days, phrases } from "./words.mjs";

// Questions without a table: the answer is computed.
function comparison(c) {
  const first = c.between(1, 99);
  const second = c.pickWhere(
    Array.from({ length: 99 }, (_, i) => i + 1),
    (n) => n !== first,
  );
  const bigger = c.chance(0.5);
  const word = bigger ? "bigger" : "smaller";
  const winner = bigger ? Math.max(first, second) : Math.min(first, second);
  const other = first + second - winner;
  return {
    user: `Which is ${word}, ${first} or ${second}?`,
    assistant: `${winner} is ${word} than ${other}.`,
  };
}

function counting(c) {
  const from = c.between(1, 80);
  const to = from + c.between(3, 15);
  const up = Array.from({ length: to - from + 1 }, (_, i) => from + i);
  const back = c.chance(0.3);
  const [start, end] = back ? [to, from] : [from, to];
  return {
    user: `Count from ${start} to ${end}.`,
    assistant: (back ? up.reverse() : up).join(", "),
  };
}

const computed = [comparison, counting];

// Small talk, each row: what the user may say, what the model answers.
const identity =
  "I am Pagoda's demo model, a very small language model. I can tell stories, add two-digit " +
  "numbers, answer simple questions and write JSON.";

const smallTalk = [
  [["Who made you?", "Who trained you?"], "I was trained from scratch for the Pagoda project."],
  [
    ["What is Pagoda?", "Tell me about Pagoda."],
    "Pagoda is an engine that runs language models in Node.js.",
  ],
  [
    ["How big are you?", "How many parameters do you have?"],
    "I am very small. I have about three million parameters.",
  ],
  [
    ["Tell me a joke.", "Do you know a joke?"],
    "Why was six afraid of seven? Because seven ate nine!",
  ],
  [["Are you happy?", "Do you have feelings?"], "I am only a small program, but I like to help."],
  [["Test", "This is a test.", "Are you there?"], "I am here. How can I help you?"],
  [
    ["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hi there!", "Hello there!"],
    "Hello! I am Pagoda's demo model. How can I help you?",
  ],
  [["Good morning!", "Good morning"], "Good morning! How can I help you?"],
  [["Good evening!", "Good evening"], "Good evening! How can I help you?"],
  [
    [
      "Who are you?",
      "What are you?",
      "Tell me about yourself.",
      "Introduce yourself.",
      "Are you an AI?",
    ],
    identity,
  ],
  [
    ["What can you do?", "How can you help me?", "What are you good at?", "Help me."],
    "I can tell stories, add two-digit numbers, answer simple questions and write JSON.",
  ],
  [["What is your name?", "Do you have a name?"], "I am Pagoda's demo model."],
  [["How are you?", "How do you do?"], "I am fine, thank you! How can I help you?"],
  [["Thank you!", "Thanks!", "Thank you very much."], "You are welcome!"],
  [["Goodbye!", "Bye!", "See you later."], "Goodbye! Have a nice day!"],
];

const unknownQuestions = phrases(`
  Who won the game last night? | What is the meaning of life? | Who wrote this book? |
  What will the weather be tomorrow? | How do airplanes fly? |
  Can you write a program in Python? | What is the best phone? | Who is the president? |
  How much does a car cost? | Write a poem about love. | What is quantum physics? |
  Translate this text. | How do I cook pasta? | What happened in 1969? |
  Which stock should I buy? | What time is it? | Explain machine learning. |
  Tell me the news. | What is the price of gold? | Who is the best singer? |
  How do computers work? | Fix my code. | What is love? | Why is the sky blue? |
  How old is the universe? | Summarize this article. | Write an email to my boss. |
  What should I eat today? | Who invented the telephone? | What is democracy? |
  How does a car engine work? | Give me advice. | What is electricity? | Why do people sleep? |
  Who painted this picture? | What is the square root of two?
`);

const unknownAnswer = "I do not know that. I am only a small demo model.";

function smallTalkTurn(c) {
  const [says, assistant] = c.pick(smallTalk);
  return { user: casually(c, c.pick(says)), assistant };
}

function anyFact(c) {
  return c.pick(c.weighted(categories));
}

/** One question with its full answer. */
export function qaTurn(c) {
  return c.weighted([
    [20, () => factTurn(anyFact(c), c)],
    [3, () => c.pick(computed)(c)],
    [4, () => smallTalkTurn(c)],
    [2, () => ({ user: casually(c, c.pick(unknownQuestions)), assistant: unknownAnswer })],
  ])();
}

function factTurn(fact, c) {
  return { user: casually(c, c.pick(fact.questions)), assistant: fact.answer };
}

/** The fixed form of a fact, for evaluation. */
export function fixedFactTurn(fact) {
  return { user: fact.questions[0], assistant: fact.answer };
}

/** A question that is to be answered in one word; the system message may have said so already. */
export function oneWordTurn(c, { announced }) {
  const fact = anyFact(c);
  const question = c.pick(fact.questions);
  return { user: announced ? question : `${question} One word.`, assistant: fact.short };
}

/** A plain document: questions and answers on lines of their own. */
export function qaText(c) {
  const count = c.between(1, 6);
  const blocks = Array.from({ length: count }, () => {
    const fact = anyFact(c);
    return `Question: ${c.pick(fact.questions)}\nAnswer: ${fact.answer}\n`;
  });
  return blocks.join("\n");
}

/** A plain document: a run of a familiar row. */
export function rowText(c) {
  const row = c.pick([days, months, letters, numberWords, colors]);
  const start = c.index(row.length);
  const count = c.between(3, 16);
  return Array.from({ length: count }, (_, i) => row[(start + i) % row.length]).join(", ") + "\n";
}
