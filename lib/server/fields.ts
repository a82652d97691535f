import { describe } from "../errors.js";
import { badRequest, type ApiError } from "./api-error.js";

export interface Range {
  readonly min: number;
  readonly max: number;
}

/**
 * Typed access to the fields of a JSON object. A field that is absent or null is undefined; every wrong one throws a 400
 * that names it. Only own properties count.
 */
export class Fields {
  readonly #values: Readonly<Record<string, unknown>>;
  /** Path of this object inside the body, with a dot at its end; empty at the root. */
  readonly #prefix: string;

  constructor(value: unknown, path = "") {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      if (path !== "") throw invalidType(path, "an object", value);
      throw badRequest(`The body has to be a JSON object but is ${render(value)}`);
    }
    this.#values = value as Record<string, unknown>;
    this.#prefix = path === "" ? "" : `${path}.`;
  }

  names(): string[] {
    return Object.keys(this.#values);
  }

  /** The value as parsed; undefined when absent or null. */
  raw(name: string): unknown {
    return Object.hasOwn(this.#values, name) ? (this.#values[name] ?? undefined) : undefined;
  }

  /** Path of a field inside the body, as errors name it. */
  path(name: string): string {
    return this.#prefix + name;
  }

  string(name: string): string | undefined {
    const value = this.raw(name);
    if (value === undefined || typeof value === "string") return value;
    throw invalidType(this.path(name), "a string", value);
  }

  boolean(name: string): boolean | undefined {
    const value = this.raw(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw invalidType(this.path(name), "a boolean", value);
  }

  number(name: string, range: Range): number | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    const expected = `a number in [${range.min}, ${range.max}]`;
    if (typeof value !== "number") throw invalidType(this.path(name), expected, value);
    if (!(value >= range.min && value <= range.max)) {
      throw invalidValue(this.path(name), expected, value);
    }
    return value;
  }

  integer(name: string, range: Range): number | undefined {
    const value = this.raw(name);
    return value === undefined ? undefined : checkInteger(this.path(name), value, range);
  }

  array(name: string): readonly unknown[] | undefined {
    const value = this.raw(name);
    if (value === undefined || Array.isArray(value)) return value;
    throw invalidType(this.path(name), "an array", value);
  }

  object(name: string): Fields | undefined {
    const value = this.raw(name);
    return value === undefined ? undefined : new Fields(value, this.path(name));
  }

  missing(name: string): ApiError {
    const path = this.path(name);
    return badRequest(
      `Missing required parameter: \`${path}\``,
      path,
      "missing_required_parameter",
    );
  }
}

export function checkInteger(path: string, value: unknown, range: Range): number {
  const expected = `an integer in [${range.min}, ${range.max}]`;
  if (typeof value !== "number") throw invalidType(path, expected, value);
  if (!Number.isInteger(value) || value < range.min || value > range.max) {
    throw invalidValue(path, expected, value);
  }
  return value;
}

export function invalidType(path: string, expected: string, received: unknown): ApiError {
  return wrong(path, expected, received, "invalid_type");
}

export function invalidValue(path: string, expected: string, received: unknown): ApiError {
  return wrong(path, expected, received, "invalid_value");
}

function wrong(path: string, expected: string, received: unknown, code: string): ApiError {
  const message = `Expected ${expected} for \`${path}\` but received ${render(received)}`;
  return badRequest(message, path, code);
}

/** Objects of a request may hold any key, also those by which {@link describe} names an object's type. */
function render(value: unknown): string {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  return isObject ? "an object" : describe(value);
}
