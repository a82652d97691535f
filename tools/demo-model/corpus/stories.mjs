// Small coherent stories.
//
// The slots of a plot's sentences are filled from one cast, so that names, pronouns and objects
// stay the same through the story.

import { love, openings, plots } from "./plots.mjs";
import {
  boys,
  capitalize,
  casually,
  colors,
  days,
  girls,
  madeUpName,
  phrases,
  withArticle,
  words,
} from "./words.mjs";

const toys = words(
  "ball kite boat drum robot hat scarf book bell basket bucket ring whistle train",
);
const homes = phrases(`
  village | small town | house by the sea | cottage in the forest | city by the river |
  green valley | old castle | house on the hill | tower near the lake
`);
const moods = words("little kind brave clever shy curious cheerful gentle young funny");
const animals = words("fox rabbit bear mouse cat dog owl duck turtle goat frog squirrel");
const spots = phrases(`
  under the bed | behind the door | in the tall grass | next to the well | on the roof |
  behind a big rock | in an old box | under the bridge
`);
const weather = words("sunny windy warm cold bright");
const treats = words("cake soup bread pie");
const missing = words("eggs butter honey milk flour apples salt cream");
const skills = phrases(`
  swim | ride a bike | sing | climb the big tree | skate on the ice | read | play the piano |
  bake bread
`);
const fruits = words("apples pears plums cherries");
const creatures = words("kitten hedgehog puppy lamb fawn piglet");
const wheres = words("park beach market lake garden school river library fair playground");

const female = { he: "she", him: "her", his: "her" };
const male = { he: "he", him: "him", his: "his" };

// Each row: weight, kind. Three animals tell their story for every seven children.
const kinds = [
  [0.35, "girl"],
  [0.35, "boy"],
  ...animals.map((kind) => [0.3 / animals.length, kind]),
];

/**
 * A character: a girl, a boy or an animal, with a name and pronouns, other than the one given.
 * Only children have made-up names: an animal's name has to tell its pronouns.
 */
function character(c, other = {}) {
  const kind = c.weighted(kinds.filter((row) => row[1] !== other.kind));
  const isChild = kind === "girl" || kind === "boy";
  const isFemale = isChild ? kind === "girl" : c.chance(0.5);
  const isMadeUp = isChild && c.chance(0.3);
  const names = isFemale ? girls : boys;
  const name = isMadeUp ? madeUpName(c) : c.pickWhere(names, (n) => n !== other.name);
  return { name, kind, ...(isFemale ? female : male) };
}

// Slots that are drawn when a sentence first needs them, and then kept.
const lateSlots = {
  mood: (c) => c.pick(moods),
  home: (c) => c.pick(homes),
  weather: (c) => c.pick(weather),
  where: (c) => c.pick(wheres),
  spot: (c) => c.pick(spots),
  treat: (c) => c.pick(treats),
  missing: (c) => c.pick(missing),
  skill: (c) => c.pick(skills),
  weekday: (c) => c.pick(days),
  fruit: (c) => c.pick(fruits),
  creature: (c) => c.pick(creatures),
  color: (c) => c.pick(colors),
  toy: (c) => `${c.pick(colors)} ${c.pick(toys)}`,
};

function slotValue(c, cast, slot) {
  if (slot in cast.values) return cast.values[slot];
  if (slot.startsWith("friend")) {
    addCharacter(cast.values, "friend", character(c, cast.hero));
  } else if (slot === "isMissing") {
    const missing = slotValue(c, cast, "missing");
    cast.values.isMissing = /^(eggs|apples)$/.test(missing) ? "were" : "was";
  } else {
    cast.values[slot] = lateSlots[slot](c);
  }
  return cast.values[slot];
}

function addCharacter(values, role, { name, kind, he, him, his }) {
  if (role === "hero") Object.assign(values, { hero: name, kind, he, him, his });
  else Object.assign(values, { friend: name, friendKind: kind, friendHim: him, friendHis: his });
}

/** Replaces {slot}, {Slot} (capitalized), {a slot} and {A slot} (with an article). */
function fill(c, cast, sentence) {
  return sentence.replace(/\{([aA] )?(\w)(\w*)\}/g, (_, article, first, rest) => {
    const value = slotValue(c, cast, first.toLowerCase() + rest);
    if (article) return article[0] === "A" ? capitalize(noun(value)) : noun(value);
    return first === first.toUpperCase() ? capitalize(value) : value;
  });
}

/** A noun with "a" or "an", or with "some" where it has no plural. */
function noun(value) {
  return value === "soup" || value === "bread" ? `some ${value}` : withArticle(value);
}

function newCast(c) {
  const cast = { hero: character(c), values: {} };
  addCharacter(cast.values, "hero", cast.hero);
  return cast;
}

/** Tells a story: the opening, an empty line, the beats of one plot. */
function tell(c, cast, plot) {
  const opening = [fill(c, cast, c.pick(openings))];
  if (plot[0] === love) opening.push(fill(c, cast, c.pick(love)));
  const beats = plot[0] === love ? plot.slice(1) : plot;
  const rest = beats.map((beat) => fill(c, cast, c.pick(beat)));
  return `${opening.join(" ")}\n\n${rest.join(" ")}`;
}

export function storyText(c) {
  return `${tell(c, newCast(c), c.pick(plots))} The end.\n`;
}

const toyPlots = plots.filter((plot) => plot[0] === love);

const requests = [
  "Tell me a story about {hero} and {a toy}.",
  "Write a story about {hero} and {a toy}.",
];

const kindRequests = [
  "Tell me a story about {a kind}.",
  "Tell me a story about {a kind} named {hero}.",
  "Write a story about {a kind} named {hero}.",
];

const openRequests = [
  "Tell me a story.",
  "Write a short story.",
  "Please tell me a story.",
  "I want to hear a story.",
  "Can you tell me a story?",
];

/** A chat turn that asks for a story, sometimes naming the hero and the toy. */
export function storyTurn(c) {
  const cast = newCast(c);
  if (c.chance(0.3)) {
    const story = tell(c, cast, c.pick(plots));
    return { user: casually(c, c.pick(openRequests)), assistant: `${story} The end.` };
  }
  if (c.chance(0.4)) {
    const user = c.pick(kindRequests);
    return { user: fill(c, cast, user), assistant: `${tell(c, cast, c.pick(plots))} The end.` };
  }
  const user = fill(c, cast, c.pick(requests));
  return { user, assistant: `${tell(c, cast, c.pick(toyPlots))} The end.` };
}
