import { closeSync, openSync, readSync } from "node:fs";
import { invalidTokenizer } from "../tokenizer-files.js";
import type { ArrayRegion } from "./metadata.js";

/*
 * Arrays of a tokenizer, read from where the header has them. Synchronous: it runs in a worker.
 */

/** Texts, each behind its length. @throws ERR_TOKENIZER_INVALID when the file has changed */
export function readStrings(file: string, { offset, bytes, length }: ArrayRegion): string[] {
  const buffer = readBytes(file, offset, bytes);
  const strings: string[] = [];
  let at = 0;
  while (strings.length < length && at + 8 <= bytes) {
    const size = Number(buffer.readBigUInt64LE(at));
    const start = at + 8;
    at = start + size;
    if (at <= bytes) strings.push(buffer.toString("utf8", start, at));
  }
  if (strings.length === length) return strings;
  throw invalidTokenizer(file, "the file changed while it was read");
}

/** The numbers of a list that was passed over, or that is at hand. */
export function readNumbers(
  file: string,
  numbers: ArrayRegion | readonly number[] | undefined,
): Float64Array | undefined {
  if (numbers === undefined) return undefined;
  if (!("offset" in numbers)) return Float64Array.from(numbers);
  const { offset, bytes, length, elementType } = numbers;
  const buffer = readBytes(file, offset, bytes);
  return Float64Array.from({ length }, (_, i) =>
    elementType === "f32" ? buffer.readFloatLE(4 * i) : buffer.readInt32LE(4 * i),
  );
}

function readBytes(file: string, offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  const handle = openSync(file, "r");
  try {
    let filled = 0;
    while (filled < length) {
      const count = readSync(handle, buffer, filled, length - filled, offset + filled);
      if (count === 0) throw invalidTokenizer(file, "the file ends inside its tokenizer");
      filled += count;
    }
  } finally {
    closeSync(handle);
  }
  return buffer;
}
