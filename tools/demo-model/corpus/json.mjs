// JSON answers: the user describes something and names the wanted keys, the assistant copies the
// values into compact JSON.
//
// Every scene draws two values whose combination decides whether the scene is held out, so that
// held-out prompts join values that never met in training.

import { isHeldOut } from "./chooser.mjs";
import {
  anyName,
  cities,
  colors,
  days,
  foods,
  listInWords,
  petKinds,
  things,
  withArticle,
} from "./words.mjs";

const range = (low, high) => Array.from({ length: high - low + 1 }, (_, i) => low + i);

/** Draws two values whose combination falls on the wanted side of the split. */
function pair(c, drawFirst, list, heldOut) {
  for (;;) {
    const first = drawFirst(c);
    const partners = list.filter((value) => isHeldOut(first, value) === heldOut);
    if (partners.length > 0) return [first, c.pick(partners)];
  }
}

const anyCity = (c) => c.pick(cities);
const anyProduct = (c) => `${c.pick(colors)} ${c.pick(things)}`;

const scenes = {
  person(c, heldOut) {
    const [name, age] = pair(c, anyName, range(2, 99), heldOut);
    const city = c.pick(cities);
    const text = c.pick([
      `${name} is ${age} years old and lives in ${city}.`,
      `${name} lives in ${city} and is ${age} years old.`,
      `${name}, who lives in ${city}, is ${age}.`,
    ]);
    return { text, values: { name, age, city } };
  },

  age(c, heldOut) {
    const [name, age] = pair(c, anyName, range(2, 99), heldOut);
    const text = c.pick([`${name} is ${age} years old.`, `${name} turned ${age} today.`]);
    return { text, values: { name, age } };
  },

  pet(c, heldOut) {
    const [name, animal] = pair(c, anyName, petKinds, heldOut);
    const color = c.pick(colors);
    const age = c.between(1, 19);
    const text = c.pick([
      `${name} is a ${color} ${animal} that is ${age} years old.`,
      `My ${animal} ${name} is ${color} and ${age} years old.`,
    ]);
    return { text, values: { name, animal, color, age } };
  },

  product(c, heldOut) {
    const [item, price] = pair(c, anyProduct, range(5, 99), heldOut);
    const stock = c.chance(0.5);
    const state = stock ? "in stock" : "sold out";
    const text = c.pick([
      `The ${item} costs ${price} dollars and is ${state}.`,
      `We sell ${withArticle(item)} for ${price} dollars. It is ${state}.`,
    ]);
    return { text, values: { item, price, in_stock: stock } };
  },

  weather(c, heldOut) {
    const [city, degrees] = pair(c, anyCity, range(1, 39), heldOut);
    const sunny = c.chance(0.5);
    const sky = sunny ? "sunny" : "cloudy";
    const text = c.pick([
      `It is ${degrees} degrees and ${sky} in ${city}.`,
      `In ${city} it is ${sky} and ${degrees} degrees.`,
    ]);
    return { text, values: { city, degrees, sunny } };
  },

  shopping(c, heldOut) {
    const [name, first] = pair(c, anyName, foods, heldOut);
    const others = c.sample(
      foods.filter((food) => food !== first),
      c.between(1, 3),
    );
    const items = [first, ...others];
    const text = c.pick([
      `${name} buys ${listInWords(items)}.`,
      `${name} needs ${listInWords(items)} from the shop.`,
    ]);
    return { text, values: { name, items } };
  },

  meeting(c, heldOut) {
    const [name, day] = pair(c, anyName, days, heldOut);
    const hour = c.between(8, 19);
    const text = c.pick([
      `${name} has a meeting on ${day} at ${hour}.`,
      `On ${day} at ${hour} we meet ${name}.`,
    ]);
    return { text, values: { name, day, hour } };
  },

  flag(c, heldOut) {
    const [city, first] = pair(c, anyCity, colors, heldOut);
    const others = c.sample(
      colors.filter((color) => color !== first),
      c.between(1, 2),
    );
    const list = [first, ...others];
    const text = `The flag of our team in ${city} is ${listInWords(list)}.`;
    return { text, values: { city, colors: list } };
  },

  friends(c, heldOut) {
    const [name, age] = pair(c, anyName, range(2, 99), heldOut);
    const friend = anyName(c);
    const friendAge = c.between(2, 99);
    const text = `${name} is ${age} and ${friend} is ${friendAge} years old.`;
    return {
      text,
      values: {
        people: [
          { name, age },
          { name: friend, age: friendAge },
        ],
      },
    };
  },
};

const sceneWeights = [
  [3, scenes.person],
  [2, scenes.age],
  [2, scenes.pet],
  [2, scenes.product],
  [2, scenes.weather],
  [2, scenes.shopping],
  [2, scenes.meeting],
  [1, scenes.flag],
  [1, scenes.friends],
];

/** The wanted keys: usually all of them in order, sometimes a selection in any order. */
function wantedKeys(c, keys) {
  if (keys.length < 2 || c.chance(0.6)) return keys;
  return c.sample(keys, c.between(1, keys.length));
}

const questions = [
  [5, (keys, text) => `Reply in JSON: ${keys}. ${text}`],
  [1, (keys, text) => `${text} Reply in JSON: ${keys}.`],
  [1, (keys, text) => `Give me JSON with ${keys}: ${text}`],
  [1, (keys, text) => `${text}\nJSON: ${keys}`],
];

/** The question forms; the first one is the fixed form that evaluation uses. */
export const fixedQuestion = questions[0][1];

export function jsonTurn(c, { heldOut = false, form } = {}) {
  const { text, values } = c.weighted(sceneWeights)(c, heldOut);
  const keys = wantedKeys(c, Object.keys(values));
  const question = form ?? c.weighted(questions);
  const answer = Object.fromEntries(keys.map((key) => [key, values[key]]));
  return { user: question(listInWords(keys), text), assistant: JSON.stringify(answer) };
}
