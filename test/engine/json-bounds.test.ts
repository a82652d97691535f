import { describe, expect, test } from "vitest";
import { JsonBounds } from "../../lib/engine/json-bounds.js";
import { createRandom } from "../support/random.js";

const accepts = (text: string) => new JsonBounds().accept(Buffer.from(text));
const nested = (levels: number) => "[".repeat(levels) + "]".repeat(levels);

describe("JsonBounds", () => {
  test("bounds the depth", () => {
    expect(accepts(nested(64))).toBe(true);
    expect(accepts(nested(65))).toBe(false);
    expect(accepts('{"a":'.repeat(65))).toBe(false);
    expect(accepts(`[${nested(63)},${nested(63)}]`)).toBe(true);
  });

  test("bounds the number of values", () => {
    expect(accepts(",".repeat(2 ** 18))).toBe(true);
    expect(accepts(",".repeat(2 ** 18 + 1))).toBe(false);
    expect(accepts(`[${"{},".repeat(2 ** 18)}`)).toBe(false);
  });

  test("does not count what stands in strings", () => {
    const text = '[{",:"'.repeat(2 ** 18);
    expect(accepts(JSON.stringify([text, { [text]: `${text}\\` }]))).toBe(true);
  });

  test("sees the same in pieces of any size", () => {
    const random = createRandom(3);
    const pieces = ['"', "\\", "\\\\", '\\"', "[", "]", "{", "}", ",", ":", "a", "é", " "];
    for (let i = 0; i < 300; i++) {
      const inner = Array.from({ length: 40 }, () => pieces[random.integer(pieces.length)]).join(
        "",
      );
      // 64 levels are accepted; whether the 65th is one depends on the strings of `inner`.
      const bytes = Buffer.from(`${"[".repeat(60)}${inner}${"[[".repeat(2)}`);
      const whole = new JsonBounds().accept(bytes);
      const bounds = new JsonBounds();
      let accepted = true;
      for (let at = 0; at < bytes.length && accepted;) {
        const end = at + random.integer(4);
        accepted = bounds.accept(bytes.subarray(at, end));
        at = end;
      }
      expect(accepted, JSON.stringify(inner)).toBe(whole);
    }
  });
});
