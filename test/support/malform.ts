import { createRandom, type Random } from "./random.js";

/** Numbers at which sizes overflow, wrap or change sign. */
const edges: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  31n,
  32n,
  255n,
  65_535n,
  65_536n,
  2n ** 24n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n,
  2n ** 60n,
  2n ** 61n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 32n,
  2n ** 64n - 1n,
];

/** Where a file has a number that a reader may trust. */
export interface NumberField {
  readonly offset: number;
  readonly bytes: 1 | 4 | 8;
}

export interface Malformable {
  readonly file: Buffer;
  /** Where the header ends. */
  readonly headerBytes: number;
  /** A copy with one number or word of the header replaced, so that it still parses. */
  readonly editField: (random: Random) => Buffer;
}

/**
 * One of many damaged copies of a file, by its number: edited fields, edges and noise anywhere in
 * the header, cuts, and bytes that are left out, doubled or put in.
 */
export function malform({ file, headerBytes, editField }: Malformable, seed: number): Buffer {
  const random = createRandom(seed);
  const copy = Buffer.from(file);
  const position = random.integer(headerBytes);
  switch (seed % 8) {
    case 0:
    case 1:
    case 2:
    case 3:
      return editField(random);
    case 4:
      return writeEdge(copy, { offset: position, bytes: ([1, 4, 8] as const)[seed % 3]! }, random);
    case 5:
      return copy.subarray(0, random.integer(3) === 0 ? random.integer(file.length) : position);
    case 6:
      return moveBytes(copy, position, 1 + random.integer(64), random);
    default:
      for (let i = 0; i <= random.integer(32); i++)
        copy[random.integer(headerBytes)]! ^= 1 << (i % 8);
      return copy;
  }
}

/** One of the numbers at which readers fail, in decimal. */
export function edgeText(random: Random): string {
  return String(edges[random.integer(edges.length)]);
}

export function writeEdge(file: Buffer, { offset, bytes }: NumberField, random: Random): Buffer {
  const edge = edges[random.integer(edges.length)]! & (2n ** BigInt(8 * bytes) - 1n);
  for (let i = 0; i < bytes && offset + i < file.length; i++) {
    file[offset + i] = Number((edge >> BigInt(8 * i)) & 0xffn);
  }
  return file;
}

/** Leaves some bytes out, doubles them, or puts zeros before them. */
function moveBytes(file: Buffer, start: number, length: number, random: Random): Buffer {
  const middle = [[], [file.subarray(start, start + 2 * length)], [Buffer.alloc(length)]];
  const kept = random.integer(3);
  const rest = file.subarray(start + (kept === 0 ? length : 0));
  return Buffer.concat([file.subarray(0, start), ...middle[kept]!, rest]);
}
