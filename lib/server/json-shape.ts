const quote = 0x22;
const comma = 0x2c;
const colon = 0x3a;
const openBracket = 0x5b;
const backslash = 0x5c;
const closeBracket = 0x5d;
const openBrace = 0x7b;
const closeBrace = 0x7d;

export interface JsonLimits {
  /** Arrays and objects inside one another. */
  readonly depth: number;
  /** Keys of all objects. */
  readonly keys: number;
  /** Values that follow another one in their array or object. */
  readonly values: number;
}

/**
 * Measures JSON text while its bytes arrive, chunk by chunk, so that text which would hold the event loop for long is
 * refused before it is parsed. Whether the text is valid is left to the parser.
 */
export class JsonShape {
  readonly #limits: JsonLimits;
  #depth = 0;
  #keys = 0;
  #values = 0;
  #inString = false;
  /** The next byte belongs to an escape inside a string. */
  #isEscaped = false;

  constructor(limits: JsonLimits) {
    this.#limits = limits;
  }

  /** Looks at the next bytes. Returns the limit that the text exceeds, if any. Bytes of UTF-8 above 0x7f never match. */
  accept(chunk: Uint8Array): keyof JsonLimits | undefined {
    for (const byte of chunk) {
      if (this.#inString) this.#stringByte(byte);
      else if (byte === quote) this.#inString = true;
      else if (byte === comma) this.#values++;
      else if (byte === colon) this.#keys++;
      else if (byte === openBrace || byte === openBracket) this.#depth++;
      else if (byte === closeBrace || byte === closeBracket) this.#depth--;
      if (this.#depth > this.#limits.depth) return "depth";
    }
    if (this.#keys > this.#limits.keys) return "keys";
    return this.#values > this.#limits.values ? "values" : undefined;
  }

  #stringByte(byte: number): void {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (byte === backslash) this.#isEscaped = true;
    else if (byte === quote) this.#inString = false;
  }
}
