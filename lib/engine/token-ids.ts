import { argumentError, describe, PagodaError } from "../errors.js";

export function isTokenId(id: unknown, vocabSize: number): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) < vocabSize;
}

/** ERR_TOKEN_ID; `name` is that of the element, e.g. `prompt[3]`. */
export function tokenIdError(
  name: string,
  index: number,
  id: unknown,
  vocabSize: number,
): PagodaError {
  return new PagodaError(
    "ERR_TOKEN_ID",
    `Expected a token id in [0, ${vocabSize - 1}] for \`${name}\` but received ${describe(id)}`,
    { details: { parameter: name, index, received: describe(id), vocabSize } },
  );
}

/** Reads the length first, so that a huge array is refused before it is copied. @throws ERR_ARGUMENT */
export function copyArray(parameter: string, value: unknown, maxLength: number): unknown[] {
  const expected = `an array of at most ${maxLength} items`;
  if (!Array.isArray(value)) throw argumentError(parameter, expected, value);
  const length: number = value.length;
  if (length > maxLength) throw argumentError(parameter, expected, value);
  return Array.from({ length }, (_, index) => value[index] as unknown);
}

/** A copy of a list of token ids. @throws ERR_ARGUMENT, ERR_TOKEN_ID */
export function copyTokenIdArray(
  parameter: string,
  value: unknown,
  maxLength: number,
  vocabSize: number,
): number[] {
  const ids = copyArray(parameter, value, maxLength);
  for (const [index, id] of ids.entries()) {
    if (!isTokenId(id, vocabSize))
      throw tokenIdError(`${parameter}[${index}]`, index, id, vocabSize);
  }
  return ids as number[];
}

/** Each once, in increasing order, but for those that the model does not know. */
export function sortedIds(ids: Iterable<number>, vocabSize: number): Int32Array {
  const known = [...new Set(ids)].filter((id) => isTokenId(id, vocabSize));
  return Int32Array.from(known).sort();
}

/** Unpaired halves of UTF-16 surrogates cannot occur in decoded text. */
export function hasLoneSurrogate(text: string): boolean {
  return /\p{Surrogate}/u.test(text);
}

/** int32, the tokens of both; the second ones themselves where there are no first ones. */
export function concatenate(first: Int32Array | undefined, second: Int32Array): Int32Array {
  if (first === undefined || first.length === 0) return second;
  const both = new Int32Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
