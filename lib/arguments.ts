import { argumentError } from "./errors.js";

/** Inclusive bounds of a number. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

/** A safe integer in the range, or ERR_ARGUMENT naming the parameter. -0 becomes 0. */
export function checkInteger(parameter: string, value: unknown, { min, max }: Range): number {
  if (Number.isSafeInteger(value)) {
    const integer = (value as number) + 0;
    if (integer >= min && integer <= max) return integer;
  }
  throw argumentError(parameter, `an integer in [${min}, ${boundText(max)}]`, value);
}

/** A finite number in the range, or ERR_ARGUMENT naming the parameter. -0 becomes 0. */
export function checkNumber(
  parameter: string,
  value: unknown,
  { min, max, exclusiveMin = false }: Range & { exclusiveMin?: boolean },
): number {
  if (typeof value === "number" && value <= max && (exclusiveMin ? value > min : value >= min)) {
    return value + 0;
  }
  const open = exclusiveMin ? "(" : "[";
  throw argumentError(parameter, `a number in ${open}${min}, ${boundText(max)}]`, value);
}

export function checkBoolean(parameter: string, value: unknown): boolean {
  if (typeof value !== "boolean") throw argumentError(parameter, "a boolean", value);
  return value;
}

/** A plain object or class instance; null, arrays and functions are refused. */
export function checkObject(parameter: string, value: unknown): object {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw argumentError(parameter, "an object", value);
  }
  return value;
}

/** Undefined is allowed. Anything with the members that are used counts, so signals of other realms do too. */
export function checkSignal(parameter: string, value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined;
  const signal = value as Partial<AbortSignal> | null;
  if (
    typeof signal !== "object" ||
    typeof signal?.aborted !== "boolean" ||
    typeof signal.addEventListener !== "function" ||
    typeof signal.removeEventListener !== "function"
  ) {
    throw argumentError(parameter, "an AbortSignal", value);
  }
  return signal as AbortSignal;
}

function boundText(bound: number): string {
  if (bound === Number.MAX_SAFE_INTEGER) return "2^53 - 1";
  return bound === 2 ** 31 - 1 ? "2^31 - 1" : String(bound);
}
