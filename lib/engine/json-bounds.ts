/** Levels of objects and lists at most. */
const maxDepth = 64;
/** Brackets, commas and colons outside of strings at most; there are about five a chat message. */
const maxMarks = 2 ** 18;

/** What a byte outside of strings is. */
const [other, quote, opening, closing, separator] = [0, 1, 2, 3, 4];
const kinds = new Uint8Array(256);
for (const [kind, characters] of [
  [quote, '"'],
  [opening, "[{"],
  [closing, "]}"],
  [separator, ",:"],
] as const) {
  for (const character of characters) kinds[character.charCodeAt(0)] = kind;
}
const [quoteByte, backslashByte] = [0x22, 0x5c];

/**
 * Bounds what `JSON.parse` can make of a text before it is called: a few MB of brackets would become hundreds of MB of
 * objects. Sees the UTF-8 bytes in any number of pieces; whether they are JSON is not its question.
 */
export class JsonBounds {
  #depth = 0;
  #marks = 0;
  #isInString = false;
  /** Whether the string goes on with the second byte of an escape. */
  #isEscaped = false;

  /** False once the text has gone beyond a bound. */
  accept(bytes: Uint8Array): boolean {
    let at = 0;
    while (at < bytes.length) {
      at = this.#isInString ? this.#skipString(bytes, at) : this.#skipMarks(bytes, at);
      if (this.#depth > maxDepth || this.#marks > maxMarks) return false;
    }
    return true;
  }

  /** Returns where the string's end has been passed. */
  #skipString(bytes: Uint8Array, start: number): number {
    let at = this.#isEscaped ? start + 1 : start;
    while (at < bytes.length && bytes[at] !== quoteByte) at += bytes[at] === backslashByte ? 2 : 1;
    this.#isInString = at >= bytes.length;
    this.#isEscaped = at > bytes.length;
    return at + 1;
  }

  /** Returns where the next string begins, or the depth goes beyond its bound. */
  #skipMarks(bytes: Uint8Array, start: number): number {
    for (let at = start; at < bytes.length; at++) {
      const kind = kinds[bytes[at] as number];
      if (kind === other) continue;
      if (kind === quote) {
        this.#isInString = true;
        return at + 1;
      }
      this.#marks++;
      if (kind === opening && ++this.#depth > maxDepth) return at;
      if (kind === closing) this.#depth--;
    }
    return bytes.length;
  }
}
