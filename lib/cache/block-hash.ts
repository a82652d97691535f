/**
 * A number for the tokens `tokenIds[start..end)` behind what `parent` stands for. Any function is correct, as hits are
 * verified; one with few collisions is fast. Integers up to 2^53 - 1.
 */
export type BlockHash = (
  parent: number,
  tokenIds: Int32Array,
  start: number,
  end: number,
) => number;

const twoTo32 = 2 ** 32;

/** Keeps zeros from staying zeros. */
const increment = 0x6a09e667;

/** Chained 53-bit hash: two 32-bit lanes that multiply and mix each token. Not cryptographic. */
export const hashTokens: BlockHash = (parent, tokenIds, start, end) => {
  let low = parent | 0;
  let high = Math.floor(parent / twoTo32) ^ (end - start);
  for (let i = start; i < end; i++) {
    low = (Math.imul(low ^ tokenIds[i]!, 0x2c1b3c6d) + increment) | 0;
    low ^= low >>> 15;
    high = Math.imul(high ^ low, 0x297a2d39) + tokenIds[i]!;
    high ^= high >>> 13;
  }
  return finish(low, high);
};

/** What the first block's hash starts from: requests of different salts share nothing. */
export function hashSalt(seed: number, cacheSalt: string | undefined): number {
  let low = seed | 0;
  let high = Math.floor(seed / twoTo32) ^ (cacheSalt === undefined ? 0 : cacheSalt.length + 1);
  for (let i = 0; i < (cacheSalt?.length ?? 0); i++) {
    low = (Math.imul(low ^ cacheSalt!.charCodeAt(i), 0x2c1b3c6d) + increment) | 0;
    low ^= low >>> 15;
    high = Math.imul(high ^ low, 0x297a2d39);
  }
  return finish(low, high);
}

/** Spreads both lanes over all of 53 bits. */
function finish(low: number, high: number): number {
  high = Math.imul(high ^ (high >>> 16) ^ increment, 0x21f0aaad) ^ low;
  low = Math.imul(low ^ (low >>> 15) ^ high, 0x735a2d97);
  high ^= low >>> 16;
  return ((high >>> 0) % 2 ** 21) * twoTo32 + (low >>> 0);
}
