/** When a sequence ends by its tokens. */
export interface StopConditions {
  /** End-of-sequence tokens; empty when the request ignores them. */
  readonly eosTokenIds: ReadonlySet<number>;
  readonly stopTokenIds: ReadonlySet<number>;
  /** Output tokens at most, at least 1; not more than the context holds behind the prompt. */
  readonly maxTokens: number;
}

/** Checked in vLLM's order: end of sequence, stop tokens, length. Stop texts are found later, in the text. */
export function checkStop(
  token: number,
  numOutputTokens: number,
  { eosTokenIds, stopTokenIds, maxTokens }: StopConditions,
): "stop" | "length" | undefined {
  if (eosTokenIds.has(token) || stopTokenIds.has(token)) return "stop";
  return numOutputTokens >= maxTokens ? "length" : undefined;
}

export interface StopMatch {
  /** Text that can no longer become part of a stop text. */
  readonly text: string;
  /** Whether a stop text is complete; `text` then ends before it, or with it where stop texts are included. */
  readonly isStopped: boolean;
}

/**
 * Finds the first stop text in a stream of text: the one that ends earliest, ties by list order. The longest end of the
 * text that begins a stop text is held back, so at most `max(length of stop) - 1` characters.
 *
 * One Knuth-Morris-Pratt automaton a stop text: a character costs constant time on average, however long the stop texts
 * are. Stop texts and pushed texts must be well-formed UTF-16; then no surrogate pair is ever cut.
 */
export class StopMatcher {
  readonly #patterns: readonly Pattern[];
  readonly #includeStop: boolean;
  #held = "";

  /** @param options - `includeStop`: stop texts are part of the text, so nothing has to be held back */
  constructor(stops: readonly string[], options: { readonly includeStop?: boolean } = {}) {
    this.#includeStop = options.includeStop ?? false;
    this.#patterns = stops.map((text) => ({ text, borders: borderLengths(text), matched: 0 }));
  }

  /** The next piece of text. Nothing may be pushed once a match was found. */
  push(text: string): StopMatch {
    const all = this.#held + text;
    for (let end = this.#held.length; end < all.length; end++) {
      const match = this.#advance(all.charCodeAt(end));
      if (match === undefined) continue;
      this.#held = "";
      const cut = this.#includeStop ? end + 1 : end + 1 - match.text.length;
      return { text: all.slice(0, cut), isStopped: true };
    }
    if (this.#includeStop) return { text: all, isStopped: false };
    const numHeld = this.#patterns.reduce((most, { matched }) => Math.max(most, matched), 0);
    const cut = all.length - numHeld;
    this.#held = all.slice(cut);
    return { text: all.slice(0, cut), isStopped: false };
  }

  /** The text held back, once no more will come. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }

  /** Moves all automata on by one UTF-16 unit; the first pattern in list order that is now complete. */
  #advance(unit: number): Pattern | undefined {
    let complete: Pattern | undefined;
    for (const pattern of this.#patterns) {
      const { text, borders } = pattern;
      while (pattern.matched > 0 && text.charCodeAt(pattern.matched) !== unit) {
        pattern.matched = borders[pattern.matched]!;
      }
      if (text.charCodeAt(pattern.matched) === unit) pattern.matched++;
      if (pattern.matched === text.length) complete ??= pattern;
    }
    return complete;
  }
}

interface Pattern {
  readonly text: string;
  /** [length + 1], length of the longest proper prefix of the first i units that is also their suffix. */
  readonly borders: Int32Array;
  /** Units of the pattern that the text ends with. */
  matched: number;
}

function borderLengths(text: string): Int32Array {
  const borders = new Int32Array(text.length + 1);
  let length = 0;
  for (let i = 1; i < text.length; i++) {
    while (length > 0 && text[i] !== text[length]) length = borders[length]!;
    if (text[i] === text[length]) length++;
    borders[i + 1] = length;
  }
  return borders;
}
