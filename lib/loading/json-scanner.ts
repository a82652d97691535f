/** A JSON text that breaks the grammar or one of the extra rules of {@link JsonScanner}. */
export class JsonSyntaxError extends Error {}

const maxDepth = 64;
const loneSurrogate = /\p{Surrogate}/u;
const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const literal = /true|false|null/y;

/**
 * A strict pull parser for untrusted JSON headers. Unlike `JSON.parse` it sees duplicate keys,
 * refuses numbers that are not plain integers where one is expected, bounds the nesting, and can
 * be paused between entries, so that a large file does not hold the event loop.
 */
export class JsonScanner {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  fail(expected: string): JsonSyntaxError {
    const found =
      this.#at < this.#text.length ? JSON.stringify(this.#text[this.#at]) : "the end of the text";
    return new JsonSyntaxError(`expected ${expected} at position ${this.#at} but found ${found}`);
  }

  /** The next character that is not JSON whitespace; undefined at the end. */
  peek(): string | undefined {
    for (; this.#at < this.#text.length; this.#at++) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) break;
    }
    return this.#text[this.#at];
  }

  expect(character: string): void {
    if (this.peek() !== character) throw this.fail(JSON.stringify(character));
    this.#at++;
  }

  end(): void {
    if (this.peek() !== undefined) throw this.fail("nothing more");
  }

  /** Yields each key of an object; the caller reads the value before it asks for the next key. */
  *keys(): Generator<string, void, void> {
    const seen = new Set<string>();
    this.expect("{");
    if (this.#skipIf("}")) return;
    do {
      const key = this.string();
      if (seen.has(key)) throw new JsonSyntaxError(`the key ${JSON.stringify(key)} occurs twice`);
      seen.add(key);
      this.expect(":");
      yield key;
    } while (this.#skipIf(","));
    this.expect("}");
  }

  /** Yields the index of each item of an array; the caller reads the item. */
  *items(): Generator<number, void, void> {
    this.expect("[");
    if (this.#skipIf("]")) return;
    let index = 0;
    do yield index++;
    while (this.#skipIf(","));
    this.expect("]");
  }

  string(): string {
    if (this.peek() !== '"') throw this.fail("a string");
    const start = this.#at;
    let end = start;
    do {
      end = this.#text.indexOf('"', end + 1);
      if (end < 0) throw new JsonSyntaxError(`the string at position ${start} does not end`);
    } while (this.#isEscaped(end));
    this.#at = end + 1;
    return parseString(this.#text.slice(start, end + 1), start);
  }

  /** An integer in [0, 2^53), written without sign, fraction or exponent. */
  unsigned(): number {
    this.peek();
    const start = this.#at;
    while (isDigit(this.#text.charCodeAt(this.#at))) this.#at++;
    const digits = this.#text.slice(start, this.#at);
    const value = Number(digits);
    const isPlain = digits !== "" && (digits === "0" || !digits.startsWith("0"));
    if (isPlain && Number.isSafeInteger(value)) return value;
    this.#at = start;
    throw this.fail("an integer in [0, 2^53)");
  }

  /** Checks and skips any value. */
  skip(depth = 0): void {
    if (depth > maxDepth) throw new JsonSyntaxError(`nested deeper than ${maxDepth}`);
    const next = this.peek();
    if (next === '"') this.string();
    else if (next === "{") for (const _ of this.keys()) this.skip(depth + 1);
    else if (next === "[") for (const _ of this.items()) this.skip(depth + 1);
    else if (!this.#skipMatch(literal) && !this.#skipMatch(number)) throw this.fail("a value");
  }

  #skipIf(character: string): boolean {
    if (this.peek() !== character) return false;
    this.#at++;
    return true;
  }

  #skipMatch(pattern: RegExp): boolean {
    pattern.lastIndex = this.#at;
    if (!pattern.test(this.#text)) return false;
    this.#at = pattern.lastIndex;
    return true;
  }

  /** Whether an odd number of backslashes stands before the quote. */
  #isEscaped(quote: number): boolean {
    let before = quote;
    while (this.#text.charCodeAt(before - 1) === 0x5c) before--;
    return (quote - before) % 2 === 1;
  }
}

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

/** `literal` includes its quotes. */
function parseString(quoted: string, position: number): string {
  let value: string;
  try {
    value = JSON.parse(quoted) as string;
  } catch {
    throw new JsonSyntaxError(`the string at position ${position} is not valid`);
  }
  if (!loneSurrogate.test(value)) return value;
  throw new JsonSyntaxError(`the string at position ${position} has a lone surrogate`);
}
