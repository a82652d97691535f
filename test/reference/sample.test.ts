import { describe, expect, it } from "vitest";
import { philox4x32 } from "../../lib/reference/philox.js";
import { drawToken, keptProbabilities, type SamplingRow } from "../../lib/reference/sample.js";

const row: SamplingRow = { temperature: 1, topK: 0, topP: 1, minP: 0, seed: [1, 2], position: 7 };
const logits = Float32Array.of(1, 3, 2, 3, -1);

describe("philox4x32", () => {
  // Known answers of the authors' library Random123 (kat_vectors).
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)("counter %j and key %j", (counter, key, expected) => {
    expect(philox4x32(counter, key)).toEqual(expected);
  });
});

describe("drawToken", () => {
  it("is greedy at temperature 0, the lowest index among equals", () => {
    expect(drawToken(logits, { ...row, temperature: 0 })).toBe(1);
    expect(drawToken(Float32Array.of(-Infinity, -5), { ...row, temperature: 0 })).toBe(1);
  });

  it.each([
    ["NaN", Float32Array.of(1, NaN)],
    ["+Infinity", Float32Array.of(1, Infinity)],
    ["nothing but -Infinity", Float32Array.of(-Infinity, -Infinity)],
  ])("refuses %s", (_, bad) => {
    expect(drawToken(bad, row)).toBeUndefined();
    expect(drawToken(bad, { ...row, temperature: 0 })).toBeUndefined();
  });

  it("depends on seed and position alone", () => {
    const draw = (seed: readonly [number, number], position: number): number | undefined =>
      drawToken(new Float32Array(100), { ...row, seed, position });
    expect(draw([5, 6], 9)).toBe(draw([5, 6], 9));
    const others = [draw([5, 6], 10), draw([6, 6], 9), draw([5, 7], 9)];
    expect(new Set(others).size).toBeGreaterThan(1);
    expect(others).not.toEqual([draw([5, 6], 9), draw([5, 6], 9), draw([5, 6], 9)]);
  });

  it("draws in proportion to the probabilities", () => {
    const draws = 20_000;
    const counts = [0, 0, 0];
    for (let position = 0; position < draws; position++) {
      const token =
        drawToken(Float32Array.from([0.6, 0.3, 0.1], Math.log), { ...row, position }) ?? -1;
      counts[token] = (counts[token] ?? 0) + 1;
    }
    // Chi-square of two degrees of freedom: above 13.8 once in 1000 seeds.
    const chiSquare = [0.6, 0.3, 0.1].reduce(
      (sum, p, i) => sum + ((counts[i] ?? 0) - p * draws) ** 2 / (p * draws),
      0,
    );
    expect(chiSquare).toBeLessThan(13.8);
  });
});

describe("keptProbabilities", () => {
  const kept = (options: Partial<SamplingRow>, x = logits): number[] => {
    const p = keptProbabilities(x, { ...row, ...options });
    return [...p.keys()].filter((token) => (p[token] ?? 0) > 0);
  };

  it("divides by the temperature", () => {
    const p = keptProbabilities(Float32Array.of(0, 2), { ...row, temperature: 2 });
    expect((p[0] ?? NaN) / (p[1] ?? NaN)).toBeCloseTo(Math.exp(-1), 12);
  });

  it("minP drops what is less probable than its part of the maximum", () => {
    expect(kept({ minP: Math.exp(-1) - 1e-9 })).toEqual([1, 2, 3]);
    expect(kept({ minP: Math.exp(-1) + 1e-9 })).toEqual([1, 3]);
    expect(kept({ minP: 1 })).toEqual([1, 3]);
  });

  it("topK keeps everything that equals the k-th", () => {
    expect(kept({ topK: 1 })).toEqual([1, 3]);
    expect(kept({ topK: 3 })).toEqual([1, 2, 3]);
    expect(kept({ topK: 99 })).toEqual([0, 1, 2, 3, 4]);
  });

  it("topP keeps the fewest that reach it, the lowest index first", () => {
    const halves = Float32Array.from([0.25, 0.5, 0.25], Math.log);
    expect(kept({ topP: 0.5 - 1e-6 }, halves)).toEqual([1]);
    expect(kept({ topP: 0.5 + 1e-6 }, halves)).toEqual([0, 1]);
    expect(kept({ topP: 0.75 + 1e-6 }, halves)).toEqual([0, 1, 2]);
    expect(kept({ topP: 1e-30 }, halves)).toEqual([1]);
  });

  it("topP counts shares of what minP and topK left", () => {
    // Tokens 1 and 3 have 0.397 each, and half of what is left when they are alone.
    expect(kept({ topP: 0.39 })).toEqual([1]);
    expect(kept({ topP: 0.45 })).toEqual([1, 3]);
    expect(kept({ topK: 2, topP: 0.45 })).toEqual([1]);
    expect(kept({ minP: 0.9, topP: 0.45 })).toEqual([1]);
  });
});
