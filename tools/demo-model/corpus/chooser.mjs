// A seeded source of choices that keeps account of what it chose.
//
// Every document of the corpus is a function of such choices, so the sum of -log p over them is the
// exact information content of the document in nats: no model can beat it on average. That is the
// yardstick that held-out perplexity is compared with.

/** Mixes a 32-bit integer so that neighbouring seeds give unrelated streams. */
function mix(value) {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

export class Chooser {
  #state;

  constructor(seed, stream = 0) {
    this.#state = mix(mix(seed + 0x9e3779b9) ^ mix(stream + 0x85ebca6b));
    this.nats = 0;
  }

  /** A uniform number in [0, 1). */
  #uniform() {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    return mix(this.#state) / 2 ** 32;
  }

  /** A uniform integer in [0, count). */
  index(count) {
    this.nats += Math.log(count);
    return Math.floor(this.#uniform() * count);
  }

  /** A uniform integer in [low, high], both ends included. */
  between(low, high) {
    return low + this.index(high - low + 1);
  }

  pick(list) {
    return list[this.index(list.length)];
  }

  /** Picks among the members that satisfy the test; the account stays exact. */
  pickWhere(list, test) {
    return this.pick(list.filter(test));
  }

  /** Picks distinct members, in random order. */
  sample(list, count) {
    const rest = [...list];
    return Array.from({ length: count }, () => rest.splice(this.index(rest.length), 1)[0]);
  }

  chance(probability) {
    const hit = this.#uniform() < probability;
    this.nats -= Math.log(hit ? probability : 1 - probability);
    return hit;
  }

  /** Picks from [weight, value] rows in proportion to the weights. */
  weighted(rows) {
    const total = rows.reduce((sum, [weight]) => sum + weight, 0);
    let left = this.#uniform() * total;
    const row = rows.find(([weight]) => (left -= weight) < 0) ?? rows[rows.length - 1];
    this.nats -= Math.log(row[0] / total);
    return row[1];
  }
}

/** FNV-1a of a text; decides which combinations of values are held out. */
export function hash(text) {
  let h = 0x811c9dc5;
  for (const byte of Buffer.from(text)) h = Math.imul(h ^ byte, 0x01000193) >>> 0;
  return mix(h);
}

/** True for one combination of values in ten: those never appear in a training document. */
export function isHeldOut(...values) {
  return hash(values.join("|")) % 10 === 0;
}
