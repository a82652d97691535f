import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkStop, StopMatcher } from "../../lib/sampling/stop.js";

describe("checkStop", () => {
  const conditions = {
    eosTokenIds: new Set([2]),
    stopTokenIds: new Set([5]),
    maxTokens: 3,
  };

  it.each([
    [2, 1, "stop"],
    [5, 1, "stop"],
    [7, 1, undefined],
    [7, 3, "length"],
    [2, 3, "stop"],
  ])("token %s as output %s: %s", (token, count, expected) => {
    expect(checkStop(token, count, conditions)).toBe(expected);
  });
});

/** Feeds the pieces; returns what was emitted and whether a stop text was found. */
function match(
  stops: readonly string[],
  pieces: readonly string[],
): { text: string; isStopped: boolean } {
  const matcher = new StopMatcher(stops);
  let text = "";
  for (const piece of pieces) {
    const found = matcher.push(piece);
    text += found.text;
    if (found.isStopped) return { text, isStopped: true };
  }
  return { text: text + matcher.flush(), isStopped: false };
}

describe("StopMatcher", () => {
  it("lets text through at once without stop texts", () => {
    const matcher = new StopMatcher([]);
    expect(matcher.push("abc")).toEqual({ text: "abc", isStopped: false });
    expect(matcher.flush()).toBe("");
  });

  it("finds a stop text split over pieces, and emits no part of it", () => {
    const matcher = new StopMatcher(["STOP"]);
    expect(matcher.push("go S")).toEqual({ text: "go ", isStopped: false });
    expect(matcher.push("TO")).toEqual({ text: "", isStopped: false });
    expect(matcher.push("P more")).toEqual({ text: "", isStopped: true });
  });

  it("emits what it held once it cannot be a stop text", () => {
    const matcher = new StopMatcher(["STOP"]);
    expect(matcher.push("aSTO")).toEqual({ text: "a", isStopped: false });
    expect(matcher.push("x")).toEqual({ text: "STOx", isStopped: false });
  });

  it("flushes what it holds at the end", () => {
    expect(match(["STOP"], ["an ST"])).toEqual({ text: "an ST", isStopped: false });
  });

  it("prefers the match that ends first, then list order", () => {
    expect(match(["abcd", "bc"], ["xabcd"])).toEqual({ text: "xa", isStopped: true });
    expect(match(["bc", "abc"], ["xabc"])).toEqual({ text: "xa", isStopped: true });
    expect(match(["abc", "bc"], ["xabc"])).toEqual({ text: "x", isStopped: true });
  });

  it("finds matches that overlap failed ones", () => {
    expect(match(["aab"], ["aaab"])).toEqual({ text: "a", isStopped: true });
    expect(match(["abcabd"], ["abcab", "cabd"])).toEqual({ text: "abc", isStopped: true });
  });

  it("never cuts a surrogate pair", () => {
    const matcher = new StopMatcher(["😀!"]);
    expect(matcher.push("a😁")).toEqual({ text: "a😁", isStopped: false });
    expect(matcher.push("😀")).toEqual({ text: "", isStopped: false });
    expect(matcher.push("😀!")).toEqual({ text: "😀", isStopped: true });
  });

  it("takes linear time for long stop texts that almost match", () => {
    const matcher = new StopMatcher([`${"a".repeat(100_000)}b`]);
    const start = performance.now();
    for (let i = 0; i < 200; i++) matcher.push("a".repeat(1000));
    expect(performance.now() - start).toBeLessThan(2000);
  });

  it("agrees with a search of the whole text, for any way of splitting it", () => {
    const letters = fc.stringMatching(/^[ab😀é]{1,4}$/u);
    const pieces = fc.array(fc.stringMatching(/^[ab😀é]{0,3}$/u), { maxLength: 12 });
    const stops = fc.array(letters, { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(stops, pieces, (stops, pieces) => {
        expect(match(stops, pieces)).toEqual(searchWhole(stops, pieces.join("")));
        checkHoldBack(stops, pieces);
      }),
      { numRuns: 5000 },
    );
  });
});

/** By definition: the occurrence that ends first, ties by list order. */
function searchWhole(stops: readonly string[], text: string): { text: string; isStopped: boolean } {
  const found = stops
    .map((stop) => ({ start: text.indexOf(stop), end: text.indexOf(stop) + stop.length }))
    .filter(({ start }) => start >= 0)
    .toSorted((a, b) => a.end - b.end)[0];
  return found ? { text: text.slice(0, found.start), isStopped: true } : { text, isStopped: false };
}

/** At most max(length) - 1 units are held, and what is emitted ends at a whole character. */
function checkHoldBack(stops: readonly string[], pieces: readonly string[]): void {
  const matcher = new StopMatcher(stops);
  let pushed = "";
  let emitted = "";
  for (const piece of pieces) {
    const { text, isStopped } = matcher.push(piece);
    pushed += piece;
    emitted += text;
    expect(/\p{Surrogate}/u.test(emitted)).toBe(false);
    if (isStopped) return;
    const longest = Math.max(...stops.map(({ length }) => length));
    expect(pushed.length - emitted.length).toBeLessThan(longest);
  }
}

describe("StopMatcher that includes stop texts", () => {
  it("emits at once and ends behind the stop text, wherever the pieces are cut", () => {
    const text = "one two STOP three";
    for (let size = 1; size <= text.length; size++) {
      const matcher = new StopMatcher(["STOP", "never"], { includeStop: true });
      let emitted = "";
      for (let start = 0; start < text.length; start += size) {
        const piece = text.slice(start, start + size);
        const match = matcher.push(piece);
        emitted += match.text;
        if (match.isStopped) break;
        expect(match.text).toBe(piece);
      }
      expect(emitted).toBe("one two STOP");
      expect(matcher.flush()).toBe("");
    }
  });
});
