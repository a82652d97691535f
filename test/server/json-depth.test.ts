import fc from "fast-check";
import { expect, test } from "vitest";
import { JsonDepth } from "../../lib/server/json-depth.js";

function depthOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
}

function accepts(text: string, limit: number, chunkSize: number): boolean {
  const bytes = Buffer.from(text);
  const depth = new JsonDepth(limit);
  for (let i = 0; i < bytes.length; i += chunkSize) {
    if (!depth.accept(bytes.subarray(i, i + chunkSize))) return false;
  }
  return true;
}

test("the depth of any JSON is found, however its bytes are cut", () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 8 }), fc.integer({ min: 1, max: 9 }), (value, size) => {
      const text = JSON.stringify(value);
      const depth = depthOf(value);
      expect(accepts(text, depth, size)).toBe(true);
      if (depth > 0) expect(accepts(text, depth - 1, size)).toBe(false);
    }),
    { numRuns: 500 },
  );
});

test("brackets in strings do not count, also after escapes", () => {
  expect(accepts(String.raw`{"a[[[\"[[\\": "]]{{"}`, 1, 1)).toBe(true);
  expect(accepts(String.raw`{"a\\": [[1]]}`, 2, 1)).toBe(false);
});

test("siblings do not add up", () => {
  expect(accepts(`[${"[],".repeat(10_000)}1]`, 2, 1000)).toBe(true);
});
