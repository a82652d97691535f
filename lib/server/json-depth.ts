const quote = 0x22;
const backslash = 0x5c;
const openBrace = 0x7b;
const closeBrace = 0x7d;
const openBracket = 0x5b;
const closeBracket = 0x5d;

/**
 * Counts how deep JSON text nests while its bytes arrive, chunk by chunk, so that too deep a text is refused before it is
 * parsed. Whether the text is valid is left to the parser.
 */
export class JsonDepth {
  readonly #limit: number;
  #depth = 0;
  #inString = false;
  /** The next byte belongs to an escape inside a string. */
  #escaped = false;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Looks at the next bytes; false once they nest deeper than the limit. UTF-8's own bytes above 0x7f never match. */
  accept(chunk: Uint8Array): boolean {
    for (const byte of chunk) {
      if (this.#inString) this.#stringByte(byte);
      else if (byte === quote) this.#inString = true;
      else if (byte === openBrace || byte === openBracket) this.#depth++;
      else if (byte === closeBrace || byte === closeBracket) this.#depth--;
      if (this.#depth > this.#limit) return false;
    }
    return true;
  }

  #stringByte(byte: number): void {
    if (this.#escaped) this.#escaped = false;
    else if (byte === backslash) this.#escaped = true;
    else if (byte === quote) this.#inString = false;
  }
}
