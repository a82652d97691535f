import { checkInteger } from "../arguments.js";
import { argumentError } from "../errors.js";

const maxInt32 = 2 ** 31 - 1;

/** An optional integer of an options object, or ERR_ARGUMENT that names it. */
export function integerOption<T extends object, K extends string & keyof T>(
  options: T,
  name: K,
  { min = 1, max = maxInt32, fallback }: { min?: number; max?: number; fallback?: number } = {},
): number {
  return checkInteger(name, options[name] ?? fallback, { min, max });
}

/** A Float32Array of this length, or ERR_ARGUMENT that names it; `shape` says what its elements are. */
export function checkFloats(
  parameter: string,
  value: unknown,
  length: number,
  shape: string,
): Float32Array {
  if (value instanceof Float32Array && value.length === length) return value;
  const received = value instanceof Float32Array ? `one of ${value.length}` : value;
  throw argumentError(parameter, `a Float32Array of ${length} numbers, ${shape}`, received);
}

/** Rows of a Float32Array of `width` columns, at least one and at most `max`, or ERR_ARGUMENT. */
export function checkRows(parameter: string, value: unknown, width: number, max: number): number {
  const rows = value instanceof Float32Array ? value.length / width : 0;
  if (Number.isInteger(rows) && rows >= 1 && rows <= max) return rows;
  const received = value instanceof Float32Array ? `one of ${value.length}` : value;
  throw argumentError(parameter, `a Float32Array of 1 to ${max} rows of ${width}`, received);
}

/** An Int32Array, or ERR_ARGUMENT that names it. */
export function checkInts(parameter: string, value: unknown): Int32Array {
  if (value instanceof Int32Array) return value;
  throw argumentError(parameter, "an Int32Array", value);
}
