/** A mistake in how the command was called; it ends with exit code 2 and a pointer to the help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** One `--option` of a command. */
export interface Option<T> {
  /** What stands for the value in the help; absent for a flag, which takes none. */
  readonly value?: string;
  readonly about: string;
  /** May be given several times. */
  readonly repeatable?: boolean;
  /** Makes the value from the texts that were given, none when it was not; throws UsageError. */
  read(flag: string, texts: readonly string[]): T;
}

export type Options = Readonly<Record<string, Option<unknown>>>;

/** The values of a command's options, by name. */
export type Values<O extends Options> = {
  readonly [K in keyof O]: O[K] extends Option<infer T> ? T : never;
};

/** The flag of an option: `maxTokens` is `--max-tokens`. */
export function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

interface Description {
  readonly value: string;
  readonly about: string;
}

/** An option with one value; the last one counts when it is given again. */
function single<T>(
  { value, about }: Description,
  parse: (flag: string, text: string) => T,
): Option<T | undefined> {
  return {
    value,
    about,
    read: (flag, texts) => {
      const text = texts.at(-1);
      return text === undefined ? undefined : parse(flag, text);
    },
  };
}

export function text(description: Description): Option<string | undefined> {
  return single(description, (_, given) => given);
}

/** An option that has to be given. */
export function required<T>(option: Option<T | undefined>): Option<T> {
  return {
    ...option,
    read: (flag, texts) => {
      const value = option.read(flag, texts);
      if (value === undefined) throw new UsageError(`${flag} ${option.value ?? ""} is missing`);
      return value;
    },
  };
}

export function withDefault<T>(option: Option<T | undefined>, fallback: T): Option<T> {
  return {
    ...option,
    about: `${option.about} (default: ${String(fallback)})`,
    read: (flag, texts) => option.read(flag, texts) ?? fallback,
  };
}

export function flag(about: string): Option<boolean> {
  return { about, read: (_, texts) => texts.length > 0 };
}

/** Every value given, in order. */
export function texts(description: Description): Option<readonly string[]> {
  return { ...description, repeatable: true, read: (_, given) => given };
}

export function choice<T extends string>(
  description: Description,
  values: readonly T[],
): Option<T | undefined> {
  return single(description, (flag, given) => {
    const found = values.find((value) => value === given);
    if (found === undefined) throw wrong(flag, `one of ${values.join(", ")}`, given);
    return found;
  });
}

export interface NumberRange {
  readonly min: number;
  readonly max: number;
  /** Whether `min` itself is refused. */
  readonly exclusiveMin?: boolean;
}

/** A decimal number in the range. */
export function number(description: Description, range: NumberRange): Option<number | undefined> {
  const { min, max, exclusiveMin = false } = range;
  const expected = `a number in ${exclusiveMin ? "(" : "["}${min}, ${max}]`;
  return single(description, (flag, given) => {
    const isNumber = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(given);
    const value = Number(given);
    const isInside = value <= max && (exclusiveMin ? value > min : value >= min);
    if (!isNumber || !isInside) throw wrong(flag, expected, given);
    return value;
  });
}

/** A whole number in the range, in decimal digits. */
export function integer(
  description: Description,
  range: { readonly min: number; readonly max: number },
): Option<number | undefined> {
  return single(description, (flag, given) => parseInteger(flag, given, range));
}

/** Whole numbers, separated by commas. */
export function integers(
  description: Description,
  range: { readonly min: number; readonly max: number },
): Option<readonly number[] | undefined> {
  return single(description, (flag, given) =>
    given.split(",").map((item) => parseInteger(flag, item.trim(), range)),
  );
}

function parseInteger(
  flag: string,
  given: string,
  { min, max }: { readonly min: number; readonly max: number },
): number {
  const value = Number(given);
  if (!/^[+-]?\d+$/.test(given) || value < min || value > max) {
    throw wrong(flag, `a whole number in [${min}, ${max}]`, given);
  }
  return value;
}

function wrong(flag: string, expected: string, given: string): UsageError {
  const shown = given.length > 40 ? `${given.slice(0, 40)}…` : given;
  return new UsageError(`${flag} takes ${expected}, not ${JSON.stringify(shown)}`);
}
