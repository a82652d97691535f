// Word tables that several families share, and names made of syllables.

/** The words of a text. */
export const words = (text) => text.trim().split(/\s+/);

/** The phrases of a text that separates them by bars. */
export const phrases = (text) => text.trim().split(/\s*\|\s*/);

export const girls = words(`
  Mia Ana Lily Emma Zoe Nora Ruby Ella Maya Sara Lena Ivy Rosa Clara Jane Alice Hana Nina
`);

export const boys = words(`
  Tom Ben Max Leo Sam Jack Finn Omar Noah Paul Hugo Oscar Adam Luis Ivan Theo Dan Kofi
`);

export const colors = words(`
  red blue green yellow orange purple white black pink brown gray golden
`);

export const cities = words(`
  Paris London Rome Berlin Madrid Tokyo Lima Cairo Oslo Delhi Vienna Prague Athens Dublin
  Lisbon
`);

export const petKinds = words("dog cat rabbit hamster parrot turtle pony goat duck fish");

export const foods = words(`
  milk bread eggs cheese apples rice butter honey soup cake grapes beans tea salt corn plums
`);

export const things = words(`
  lamp chair table clock mirror book bag cup plate hat coat scarf kite drum bike phone
`);

export const days = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday");

export const plainWords = words(`
  apple river stone cloud lamp tiger green seven music paper window garden silver bread moon
  chair yellow forest happy train snow button pencil castle ocean
`);

// Few letters: a free choice would now and then make a name that is a rude word.
const onsets = words("b d l m n r s t v");
const vowels = words("a i o u");
const endings = [
  [2, ""],
  [1, "n"],
  [1, "l"],
  [1, "s"],
  [1, "r"],
];

/** A name that no table holds, such as "Ravo": the model can only copy it from the prompt. */
export function madeUpName(c) {
  const syllable = () => c.pick(onsets) + c.pick(vowels);
  return capitalize(syllable() + syllable() + c.weighted(endings));
}

/** A first name: usually from the tables, sometimes made up. */
export function anyName(c) {
  return c.chance(0.35) ? madeUpName(c) : c.pick([...girls, ...boys]);
}

export function capitalize(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function withArticle(noun) {
  return (/^[aeiou]/.test(noun) ? "an " : "a ") + noun;
}

/** "a", "a and b", "a, b and c". */
export function listInWords(items) {
  if (items.length < 2) return items.join("");
  return `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}`;
}

/** Sometimes the way people type: small letters, no full stop or question mark. */
export function casually(c, text) {
  if (c.chance(0.8)) return text;
  const bare = text.replace(/[.?!]$/, "");
  return c.chance(0.7) ? bare.toLowerCase() : bare;
}
