import fc from "fast-check";
import { expect, test } from "vitest";
import { JsonShape, type JsonLimits } from "../../lib/server/json-shape.js";

/** The shape of a parsed value, counted the slow way. */
function shapeOf(value: unknown): JsonLimits {
  if (typeof value !== "object" || value === null) return { depth: 0, keys: 0, values: 0 };
  const inner = Object.values(value).map(shapeOf);
  const sum = (field: "keys" | "values") => inner.reduce((total, shape) => total + shape[field], 0);
  return {
    depth: 1 + Math.max(0, ...inner.map(({ depth }) => depth)),
    keys: sum("keys") + (Array.isArray(value) ? 0 : inner.length),
    values: sum("values") + Math.max(0, inner.length - 1),
  };
}

/** What is exceeded when the bytes arrive in chunks of this size. */
function exceeded(text: string, limits: JsonLimits, chunkSize: number): string | undefined {
  const bytes = Buffer.from(text);
  const shape = new JsonShape(limits);
  for (let i = 0; i < bytes.length; i += chunkSize) {
    const limit = shape.accept(bytes.subarray(i, i + chunkSize));
    if (limit !== undefined) return limit;
  }
  return undefined;
}

test("the shape of any JSON is found, however its bytes are cut", () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 8 }), fc.integer({ min: 1, max: 9 }), (value, size) => {
      const text = JSON.stringify(value);
      const shape = shapeOf(value);
      expect(exceeded(text, shape, size)).toBeUndefined();
      for (const limit of ["depth", "keys", "values"] as const) {
        if (shape[limit] === 0) continue;
        expect(exceeded(text, { ...shape, [limit]: shape[limit] - 1 }, size)).toBe(limit);
      }
    }),
    { numRuns: 500 },
  );
});

test("nothing counts in strings, also after escapes", () => {
  const flat = { depth: 1, keys: 1, values: 0 };
  expect(exceeded(String.raw`{"a[[[\"[[,:\\": "]]{{,:"}`, flat, 1)).toBeUndefined();
  expect(exceeded(String.raw`{"a\\": [[1]]}`, { ...flat, depth: 2 }, 1)).toBe("depth");
});
