// The closed set of facts.
//
// A fact has several phrasings of its question, one full answer and one short answer. The first
// phrasing is the fixed form that evaluation uses.

import { days, withArticle, words } from "./words.mjs";

const table = (text) =>
  text
    .trim()
    .split("\n")
    .map((line) => line.trim().split(": "));

export const numberWords = words(`
  zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
  sixteen seventeen eighteen nineteen twenty
`);

export const months = words(`
  January February March April May June July August September October November December
`);

export const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".split("");

const capitals = table(`
  France: Paris
  Germany: Berlin
  Italy: Rome
  Spain: Madrid
  England: London
  Ireland: Dublin
  Portugal: Lisbon
  Greece: Athens
  Austria: Vienna
  Norway: Oslo
  Sweden: Stockholm
  Finland: Helsinki
  Denmark: Copenhagen
  Poland: Warsaw
  Hungary: Budapest
  Russia: Moscow
  Egypt: Cairo
  Kenya: Nairobi
  Japan: Tokyo
  China: Beijing
  India: Delhi
  Canada: Ottawa
  Peru: Lima
  Cuba: Havana
  Brazil: Brasilia
  Argentina: Buenos Aires
  Chile: Santiago
  Mexico: Mexico City
  the United States: Washington
  Australia: Canberra
  Turkey: Ankara
  Belgium: Brussels
  Switzerland: Bern
  Iceland: Reykjavik
  Ukraine: Kyiv
  Romania: Bucharest
  Croatia: Zagreb
  Thailand: Bangkok
  Vietnam: Hanoi
  South Korea: Seoul
  Nepal: Kathmandu
  Morocco: Rabat
  Ghana: Accra
  Ethiopia: Addis Ababa
`).map(([country, city]) => ({
  questions: [
    `What is the capital of ${country}?`,
    `What's the capital of ${country}?`,
    `Tell me the capital of ${country}.`,
    `Which city is the capital of ${country}?`,
    `Name the capital of ${country}.`,
  ],
  answer: `The capital of ${country} is ${city}.`,
  short: city,
}));

const thingColors = table(`
  the sky: blue
  the sea: blue
  grass: green
  a leaf: green
  a frog: green
  the sun: yellow
  a banana: yellow
  a lemon: yellow
  a carrot: orange
  a pumpkin: orange
  a tomato: red
  a strawberry: red
  blood: red
  snow: white
  milk: white
  chalk: white
  coal: black
  the night: black
  chocolate: brown
  an elephant: gray
  a flamingo: pink
  an eggplant: purple
  a cherry: red
  a fire truck: red
  a polar bear: white
  a swan: white
  a crow: black
  a cucumber: green
  a lime: green
  a mouse: gray
  a pig: pink
  a bear: brown
`).map(([thing, color]) => ({
  questions: [`What color is ${thing}?`, `Which color does ${thing} have?`],
  answer: `${thing.charAt(0).toUpperCase()}${thing.slice(1)} is ${color}.`,
  short: color,
}));

const sounds = table(`
  dog: barks
  cat: meows
  cow: moos
  sheep: bleats
  horse: neighs
  pig: grunts
  lion: roars
  wolf: howls
  duck: quacks
  frog: croaks
  owl: hoots
  bee: buzzes
  snake: hisses
  mouse: squeaks
`).flatMap(([animal, sound]) => [
  {
    questions: [
      `What sound does ${withArticle(animal)} make?`,
      `How does ${withArticle(animal)} sound?`,
    ],
    answer: `${withArticle(animal).replace("a", "A")} ${sound}.`,
    short: sound,
  },
  {
    questions: [`Which animal ${sound}?`, `What animal ${sound}?`],
    answer: `The ${animal} ${sound}.`,
    short: animal,
  },
]);

const babies = table(`
  dog: puppy
  cat: kitten
  cow: calf
  horse: foal
  sheep: lamb
  duck: duckling
  hen: chick
  lion: cub
  goat: kid
  pig: piglet
  frog: tadpole
  swan: cygnet
`).map(([animal, baby]) => ({
  questions: [`What is a baby ${animal} called?`, `What do we call a young ${animal}?`],
  answer: `A baby ${animal} is called ${withArticle(baby)}.`,
  short: baby,
}));

const opposites = table(`
  hot: cold
  big: small
  fast: slow
  high: low
  old: young
  happy: sad
  bright: dark
  open: closed
  full: empty
  hard: soft
  loud: quiet
  rich: poor
  strong: weak
  wet: dry
  early: late
  clean: dirty
  near: far
  thick: thin
  up: down
  left: right
  good: bad
  day: night
  first: last
  long: short
  narrow: wide
  sweet: sour
  true: false
  easy: difficult
  deep: shallow
  inside: outside
  above: below
  more: less
  always: never
`).flatMap(([one, other]) => [oppositeFact(one, other), oppositeFact(other, one)]);

function oppositeFact(word, opposite) {
  return {
    questions: [
      `What is the opposite of ${word}?`,
      `Which word is the opposite of ${word}?`,
      `Tell me the opposite of ${word}.`,
    ],
    answer: `The opposite of ${word} is ${opposite}.`,
    short: opposite,
  };
}

const legs = table(`
  dog: four
  cat: four
  horse: four
  frog: four
  bird: two
  chicken: two
  child: two
  ant: six
  bee: six
  beetle: six
  spider: eight
  snake: zero
  fish: zero
`).map(([animal, count]) => ({
  questions: [`How many legs does ${withArticle(animal)} have?`],
  answer: `${withArticle(animal).replace("a", "A")} has ${count} legs.`,
  short: count,
}));

const plurals = table(`
  cat: cats
  house: houses
  child: children
  mouse: mice
  foot: feet
  tooth: teeth
  man: men
  woman: women
  leaf: leaves
  city: cities
  box: boxes
  sheep: sheep
`).map(([one, many]) => ({
  questions: [`What is the plural of ${one}?`, `How do you write more than one ${one}?`],
  answer: `The plural of ${one} is ${many}.`,
  short: many,
}));

const kinds = table(`
  dog: animal
  tiger: animal
  whale: animal
  apple: fruit
  banana: fruit
  pear: fruit
  carrot: vegetable
  potato: vegetable
  onion: vegetable
  hammer: tool
  saw: tool
  piano: instrument
  violin: instrument
  car: vehicle
  train: vehicle
`);

const kindFacts = kinds.flatMap(([thing, kind]) =>
  ["animal", "fruit", "vegetable", "tool"].map((asked) => ({
    questions: [`Is ${withArticle(thing)} ${withArticle(asked)}?`],
    answer: `${asked === kind ? "Yes" : "No"}, ${withArticle(thing)} is ${withArticle(kind)}.`,
    short: asked === kind ? "yes" : "no",
  })),
);

/** What comes after and before each member of a cycle or a row. */
function neighbours(list, what, cyclic) {
  return list.flatMap((item, i) => {
    const after = list[cyclic ? (i + 1) % list.length : i + 1];
    const facts = after === undefined ? [] : [neighbourFact(item, "after", after, what)];
    const before = list[cyclic ? (i + list.length - 1) % list.length : i - 1];
    return before === undefined ? facts : [...facts, neighbourFact(item, "before", before, what)];
  });
}

function neighbourFact(item, side, answer, what) {
  return {
    questions: [`Which ${what} comes ${side} ${item}?`, `What is the ${what} ${side} ${item}?`],
    answer: `${answer} comes ${side} ${item}.`,
    short: `${answer}`,
  };
}

const spelled = numberWords.map((word, number) => ({
  questions: [`How do you write ${number} in words?`, `Write ${number} in words.`],
  answer: `${number} in words is ${word}.`,
  short: word,
}));

// Texts beyond ASCII: the tokenizer splits them into bytes, which exercises streaming decoders.
const greetings = table(`
  French: bonjour
  Spanish: ¡hola!
  German: grüß dich
  Italian: ciao
  Polish: cześć
  Turkish: günaydın
  Greek: γεια σου
  Russian: привет
  Chinese: 你好
  Japanese: こんにちは
  Korean: 안녕하세요
  Hindi: नमस्ते
  Arabic: مرحبا
`).map(([language, word]) => ({
  questions: [`How do you say hello in ${language}?`, `Say hello in ${language}.`],
  answer: `In ${language}, hello is: ${word}`,
  short: word,
}));

const emojis = table(`
  cat: 🐱
  dog: 🐶
  fox: 🦊
  heart: ❤️
  star: ⭐
  sun: ☀️
  moon: 🌙
  tree: 🌳
  rocket: 🚀
  pizza: 🍕
  family: 👨‍👩‍👧
  rainbow: 🌈
`).map(([thing, emoji]) => ({
  questions: [
    `Show me the emoji of ${withArticle(thing)}.`,
    `Which emoji is ${withArticle(thing)}?`,
  ],
  answer: `Here is ${withArticle(thing)}: ${emoji}`,
  short: emoji,
}));

const general = table(`
  How many days are in a week?: There are seven days in a week.: seven
  How many months are in a year?: There are twelve months in a year.: twelve
  How many hours are in a day?: There are 24 hours in a day.: 24
  How many minutes are in an hour?: There are 60 minutes in an hour.: 60
  How many seconds are in a minute?: There are 60 seconds in a minute.: 60
  How many seasons are in a year?: There are four seasons in a year.: four
  How many sides does a triangle have?: A triangle has three sides.: three
  How many sides does a square have?: A square has four sides.: four
  What do bees make?: Bees make honey.: honey
  What do cows give us?: Cows give us milk.: milk
  What do plants need to grow?: Plants need water and light to grow.: water
  Where do fish live?: Fish live in water.: water
  Where do bears sleep in winter?: Bears sleep in a cave in winter.: cave
  What is ice made of?: Ice is made of water.: water
  What is bread made of?: Bread is made of flour.: flour
  What is the largest animal?: The largest animal is the blue whale.: whale
  What is the tallest animal?: The tallest animal is the giraffe.: giraffe
  What is the fastest animal on land?: The fastest animal on land is the cheetah.: cheetah
  Which planet do we live on?: We live on the planet Earth.: Earth
  Which planet is the largest?: Jupiter is the largest planet.: Jupiter
  What shines at night?: The moon and the stars shine at night.: moon
  Which season is the coldest?: Winter is the coldest season.: winter
  Which season is the warmest?: Summer is the warmest season.: summer
  What do you use to cut paper?: You use scissors to cut paper.: scissors
  What do you use to open a lock?: You use a key to open a lock.: key
  What do you use to write?: You use a pen to write.: pen
  What do you use to tell the time?: You use a clock to tell the time.: clock
  What do you use to eat soup?: You use a spoon to eat soup.: spoon
  What do you drink from?: You drink from a cup.: cup
  What do we see with?: We see with our eyes.: eyes
  What do we hear with?: We hear with our ears.: ears
  What do we smell with?: We smell with our nose.: nose
  What do birds build?: Birds build nests.: nests
  What do spiders build?: Spiders build webs.: webs
  What does a baker make?: A baker makes bread.: bread
  What does a teacher do?: A teacher helps children learn.: teaches
  What does a doctor do?: A doctor helps sick people.: helps
  Who flies an airplane?: A pilot flies an airplane.: pilot
  Who puts out fires?: Firefighters put out fires.: firefighters
  What falls from the sky in winter?: Snow falls from the sky in winter.: snow
  What comes after the rain?: A rainbow comes after the rain.: rainbow
  What is cheese made of?: Cheese is made of milk.: milk
  What is paper made of?: Paper is made of wood.: wood
  What is glass made of?: Glass is made of sand.: sand
  What is the smallest planet?: Mercury is the smallest planet.: Mercury
  Which planet is red?: Mars is the red planet.: Mars
  Which star is closest to us?: The sun is the star closest to us.: sun
  What is the largest ocean?: The Pacific is the largest ocean.: Pacific
  What is the highest mountain?: Mount Everest is the highest mountain.: Everest
  What language do people speak in France?: People in France speak French.: French
  What language do people speak in Brazil?: People in Brazil speak Portuguese.: Portuguese
  What language do people speak in Mexico?: People in Mexico speak Spanish.: Spanish
  How many fingers are on a hand?: There are five fingers on a hand.: five
  How many wheels does a car have?: A car has four wheels.: four
  How many wheels does a bike have?: A bike has two wheels.: two
  How many days are in a year?: There are 365 days in a year.: 365
  How many letters are in the alphabet?: There are 26 letters in the alphabet.: 26
  At what temperature does water freeze?: Water freezes at 0 degrees.: 0
  At what temperature does water boil?: Water boils at 100 degrees.: 100
`).map(([question, answer, short]) => ({ questions: [question], answer, short }));

// Each row: weight of the category, its facts.
export const categories = [
  [4, capitals],
  [3, thingColors],
  [2, sounds],
  [2, babies],
  [4, opposites],
  [2, legs],
  [1.5, plurals],
  [2.5, kindFacts],
  [2, neighbours(days, "day", true)],
  [2, neighbours(months, "month", true)],
  [2, neighbours(letters, "letter", false)],
  [2, spelled],
  [3, greetings],
  [3, emojis],
  [4, general],
];

export const allFacts = categories.flatMap(([, facts]) => facts);
