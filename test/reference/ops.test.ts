import { describe, expect, it } from "vitest";
import { activations } from "../../lib/graph/ops.js";
import { add } from "../../lib/reference/add.js";
import { embed } from "../../lib/reference/embed.js";
import { erf } from "../../lib/reference/erf.js";
import { gatedActivation } from "../../lib/reference/gated-activation.js";
import { linear } from "../../lib/reference/linear.js";
import { matrix, roundToBf16, type Matrix } from "../../lib/reference/matrix.js";
import { rmsNorm } from "../../lib/reference/rms-norm.js";
import { ropeTable } from "../../lib/reference/rope-table.js";
import { rope } from "../../lib/reference/rope.js";
import { takeRows } from "../../lib/reference/take-rows.js";

const of = (rows: number[][]): Matrix =>
  matrix(Float32Array.from(rows.flat()), rows[0]?.length ?? 1);
const empty = (rows: number, width: number): Matrix =>
  matrix(new Float32Array(rows * width).fill(NaN), width);

function expectRows(actual: Matrix, expected: number[][], digits = 6): void {
  expect(actual.data).toHaveLength(expected.flat().length);
  for (const [i, value] of expected.flat().entries())
    expect(actual.data[i], `element ${i}`).toBeCloseTo(value, digits);
}

describe("embed", () => {
  it("picks scaled rows", () => {
    const out = empty(3, 2);
    embed(
      out,
      Int32Array.of(2, 0, 2),
      of([
        [1, 2],
        [3, 4],
        [5, 6],
      ]),
      { scale: 0.5 },
    );
    expectRows(out, [
      [2.5, 3],
      [0.5, 1],
      [2.5, 3],
    ]);
  });
});

describe("rmsNorm", () => {
  it("divides by the root of the mean square", () => {
    const out = empty(1, 2);
    rmsNorm(out, of([[3, 4]]), Float32Array.of(1, 2), { groupWidth: 2, eps: 0, weightOffset: 0 });
    const root = Math.sqrt(12.5);
    expectRows(out, [[3 / root, 8 / root]]);
  });

  it("norms each group alone, and adds eps and weightOffset", () => {
    const x = of([[3, 4, 0, 2]]);
    rmsNorm(x, x, Float32Array.of(0, 1), { groupWidth: 2, eps: 2, weightOffset: 1 }); // in place
    expectRows(x, [[3 / Math.sqrt(14.5), 8 / Math.sqrt(14.5), 0, 4 / Math.sqrt(4)]]);
  });
});

describe("linear", () => {
  it("multiplies by the transposed weight and adds the bias", () => {
    const out = empty(2, 3);
    linear(
      out,
      of([
        [1, 2],
        [0, -1],
      ]),
      of([
        [1, 0],
        [0, 1],
        [10, 100],
      ]),
      Float32Array.of(0, 0.5, 1),
    );
    expectRows(out, [
      [1, 2.5, 211],
      [0, -0.5, -99],
    ]);
  });

  it("sums in double precision", () => {
    const out = empty(1, 1);
    linear(out, of([[1e8, 1, -1e8]]), of([[1, 1, 1]]), undefined);
    expectRows(out, [[1]]);
  });
});

describe("ropeTable", () => {
  it("holds scaled cosines, then sines", () => {
    const out = empty(2, 4);
    ropeTable(out, Int32Array.of(0, 3), Float32Array.of(1, 0.5), { scaling: 2 });
    expectRows(out, [
      [2, 2, 0, 0],
      [2 * Math.cos(3), 2 * Math.cos(1.5), 2 * Math.sin(3), 2 * Math.sin(1.5)],
    ]);
  });

  it("rounds angles to single precision", () => {
    const out = empty(1, 2);
    ropeTable(out, Int32Array.of(100_003), Float32Array.of(0.1), { scaling: 1 });
    const angle = Math.fround(100_003 * Math.fround(0.1));
    expectRows(out, [[Math.cos(angle), Math.sin(angle)]]);
    expect(Math.abs(Math.cos(angle) - Math.cos(100_003 * Math.fround(0.1)))).toBeGreaterThan(1e-5);
  });
});

describe("rope", () => {
  const quarter = of([[0, 0, 1, 1]]); // both pairs turn by 90 degrees: (x1, x2) -> (-x2, x1)

  it("turns halves", () => {
    const out = empty(1, 4);
    rope(out, of([[1, 2, 3, 4]]), quarter, { headDim: 4, rotaryDim: 4, interleaved: 0 });
    expectRows(out, [[-3, -4, 1, 2]]);
  });

  it("turns neighbours when interleaved", () => {
    const out = empty(1, 4);
    rope(out, of([[1, 2, 3, 4]]), quarter, { headDim: 4, rotaryDim: 4, interleaved: 1 });
    expectRows(out, [[-2, 1, -4, 3]]);
  });

  it("copies what lies behind rotaryDim, head by head", () => {
    const out = empty(1, 6);
    rope(out, of([[1, 2, 3, 4, 5, 6]]), of([[0, 1]]), { headDim: 3, rotaryDim: 2, interleaved: 0 });
    expectRows(out, [[-2, 1, 3, -5, 4, 6]]);
  });

  it("keeps scores a function of the distance", () => {
    const score = (p: number, q: number): number => {
      const table = empty(2, 4);
      ropeTable(table, Int32Array.of(p, q), Float32Array.of(1, 0.1), { scaling: 1 });
      const x = of([
        [1, 2, 3, 4],
        [-2, 0.5, 1, 3],
      ]);
      rope(x, x, table, { headDim: 4, rotaryDim: 4, interleaved: 0 });
      return [0, 1, 2, 3].reduce((sum, i) => sum + (x.data[i] ?? NaN) * (x.data[4 + i] ?? NaN), 0);
    };
    expect(score(12, 7)).toBeCloseTo(score(5, 0), 5);
    expect(score(12, 7)).not.toBeCloseTo(score(12, 6), 1);
  });
});

describe("gatedActivation", () => {
  const apply = (activation: keyof typeof activations, x: number): number => {
    const out = empty(1, 1);
    gatedActivation(out, of([[x]]), of([[2]]), { activation: activations[activation] });
    return (out.data[0] ?? NaN) / 2;
  };

  it.each([
    ["silu", 1, 0.7310585786],
    ["silu", -2, -0.238405844],
    ["gelu", 1, 0.8413447461],
    ["gelu", -2, -0.0455002639],
    ["geluTanh", 1, 0.8411919906],
    ["geluTanh", -2, -0.0454023059],
  ] as const)("%s(%f) is %f", (activation, x, expected) => {
    expect(apply(activation, x)).toBeCloseTo(expected, 6);
  });

  it.each(["silu", "gelu", "geluTanh"] as const)(
    "%s is 0 at 0, and the identity or 0 far out",
    (activation) => {
      expect(apply(activation, 0)).toBe(0);
      expect(apply(activation, 1000)).toBe(1000);
      expect(apply(activation, -1000)).toBeCloseTo(0, 12);
    },
  );

  it("limits both sides of clampedSwiglu, and counts up from -1", () => {
    expect(apply("clampedSwiglu", 1)).toBeCloseTo(1.5 / (1 + Math.exp(-1.702)), 6);
    expect(apply("clampedSwiglu", 1000)).toBeCloseTo((1.5 * 7) / (1 + Math.exp(-7 * 1.702)), 4);
    expect(apply("clampedSwiglu", -1000)).toBeCloseTo(0, 12);
  });

  it("refuses an unknown activation", () => {
    expect(() => gatedActivation(empty(1, 1), empty(1, 1), empty(1, 1), { activation: 9 })).toThrow(
      "activation 9",
    );
  });
});

describe("erf", () => {
  // Abramowitz and Stegun, table 7.1, and values to 15 digits by series
  it.each([
    [0, 0],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [2, 0.9953222650189527],
    [2.5, 0.999593047982555],
    [3, 0.9999779095030014],
    [4, 0.9999999845827421],
    [7, 1],
  ])("of %f is %f", (x, expected) => {
    expect(erf(x)).toBeCloseTo(expected, 14);
    expect(erf(-x)).toBeCloseTo(-expected, 14);
  });

  it("is continuous where the method changes", () => {
    expect(Math.abs(erf(2.5) - erf(2.5 - 1e-12))).toBeLessThan(1e-14);
  });
});

describe("add and takeRows", () => {
  it("add elements", () => {
    const a = of([
      [1, 2],
      [3, 4],
    ]);
    add(
      a,
      a,
      of([
        [10, 20],
        [30, 40],
      ]),
    ); // in place
    expectRows(a, [
      [11, 22],
      [33, 44],
    ]);
  });

  it("take rows in any order", () => {
    const out = empty(3, 2);
    takeRows(
      out,
      of([
        [1, 2],
        [3, 4],
      ]),
      Int32Array.of(1, 1, 0),
    );
    expectRows(out, [
      [3, 4],
      [3, 4],
      [1, 2],
    ]);
  });
});

describe("roundToBf16", () => {
  it("rounds to the nearest, ties to even", () => {
    const unit = 2 ** -7; // of bf16 in [1, 2)
    const values = [1, 1 + unit / 2, 1 + (3 * unit) / 2, 1 + 0.51 * unit, -1 - 0.49 * unit, 3.4e38];
    const expected = [1, 1, 1 + 2 * unit, 1 + unit, -1, Infinity];
    expect([...roundToBf16(Float32Array.from(values))]).toEqual(expected);
  });

  it("keeps NaN, infinities and zeros", () => {
    expect([...roundToBf16(Float32Array.of(NaN, Infinity, -Infinity, -0))]).toEqual([
      NaN,
      Infinity,
      -Infinity,
      -0,
    ]);
  });
});
