import { argumentError } from "../errors.js";

export const maxInt32: number = 2 ** 31 - 1;

/** @throws ERR_ARGUMENT naming the array */
export function checkLength(
  name: string,
  values: ArrayLike<number>,
  min: number,
  max: number = min,
): void {
  if (values.length >= min && values.length <= max) return;
  const expected = min === max ? `${min} elements` : `${min} to ${max} elements`;
  throw argumentError(name, expected, `${values.length} elements`);
}

/** NaN fails too. @throws ERR_ARGUMENT naming the element */
export function checkRange(
  name: string,
  values: ArrayLike<number>,
  min: number,
  max: number,
): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (!(value >= min && value <= max))
      throw argumentError(`${name}[${i}]`, `a number in [${min}, ${max}]`, value);
  }
}
