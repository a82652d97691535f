import { describe, expect, it } from "vitest";
import { groupScores, scorings } from "../../lib/graph/ops.js";
import { matrix } from "../../lib/reference/matrix.js";
import { route, type RouteAttributes } from "../../lib/reference/route.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

const plain: RouteAttributes = {
  topK: 2,
  scoring: scorings.softmax,
  normalize: 0,
  scale: 1,
  numGroups: 1,
  topGroups: 1,
  groupScore: groupScores.max,
};

interface RouteShape {
  readonly rows: number;
  readonly experts: number;
  readonly bias?: boolean;
  readonly of?: "outputs";
  /** Instead of random ones. */
  readonly logits?: Float32Array;
}

function routeCase(name: string, shape: RouteShape, change: Partial<RouteAttributes>): OpCase {
  const { rows, experts, bias = false, of = "tokens" } = shape;
  const attributes = { ...plain, ...change };
  const random = createRandom(rows * 1000 + experts);
  const logits = shape.logits ?? random.normals(rows * experts);
  const data = random.normals(experts, 0.3);
  return {
    name: `${name}: top ${attributes.topK} of ${experts}, ${rows} rows`,
    tensors: {
      x: { rows: of, width: experts },
      out: { rows: of, width: 2 * attributes.topK, isOutput: true },
    },
    weights: bias ? { bias: { kind: "vector", rows: 1, cols: experts, data } } : {},
    ops: [
      {
        op: "route",
        inputs: ["x"],
        output: "out",
        weights: [bias ? "bias" : undefined],
        attributes: { ...attributes },
      },
    ],
    runs: [{ step: plainStep(rows), data: { x: logits } }],
  };
}

const deepseek = { normalize: 1, scale: 2.5, numGroups: 4, topGroups: 2 };
const { sigmoid } = scorings;
const top2Sum = { ...deepseek, scoring: sigmoid, groupScore: groupScores.top2Sum };

conformance("route", [
  ...[1, 3, 8, 17, 64, 130].map((experts) =>
    routeCase("softmax", { rows: 5, experts }, { topK: Math.min(experts, 3) }),
  ),
  routeCase("normalised", { rows: 70, experts: 128 }, { topK: 8, normalize: 1 }),
  routeCase("all experts", { rows: 2, experts: 9 }, { topK: 9, scale: 0.5 }),
  routeCase("outputs", { rows: 3, experts: 12, of: "outputs" }, {}),
  routeCase("sigmoid", { rows: 4, experts: 20, bias: true }, { scoring: sigmoid, topK: 4 }),
  routeCase("groups by two best", { rows: 33, experts: 32, bias: true }, { ...top2Sum, topK: 6 }),
  routeCase("groups by best", { rows: 9, experts: 20 }, { ...deepseek, topK: 3 }),
  routeCase("whole groups", { rows: 4, experts: 8, bias: true }, { ...top2Sum, topK: 4 }),
  routeCase("ties", { rows: 3, experts: 6, logits: new Float32Array(18).fill(0.25) }, { topK: 4 }),
]);

describe("route", () => {
  const run = (logits: number[], change: Partial<RouteAttributes>, bias?: number[]): number[] => {
    const attributes = { ...plain, ...change };
    const out = matrix(new Float32Array(2 * attributes.topK), 2 * attributes.topK);
    const biases = bias === undefined ? undefined : Float32Array.from(bias);
    route(out, matrix(Float32Array.from(logits), logits.length), biases, attributes);
    return [...out.data];
  };

  it("takes the lowest index among equals", () => {
    expect(run([1, 2, 2, 2, 1], {}).slice(2)).toEqual([1, 2]);
  });

  it("chooses by the bias but weighs without it", () => {
    const [first, second, ...experts] = run([0, 0, 0], { scoring: sigmoid }, [0, 1, 2]);
    expect(experts).toEqual([2, 1]);
    expect([first, second]).toEqual([0.5, 0.5]);
  });

  it("is the softmax over the chosen logits where weights are normalised", () => {
    const [a = 0, b = 0] = run([3, 1, 2, 0], { normalize: 1 });
    expect(a / b).toBeCloseTo(Math.E, 5);
    expect(a + b).toBeCloseTo(1, 6);
  });

  it("asks only the best groups", () => {
    const logits = [9, -9, 5, 5, 4, 4]; // sums of sigmoids: about 1, 1.99, 1.96
    const groups = { scoring: sigmoid, numGroups: 3, topGroups: 1 };
    expect(run(logits, { ...groups, groupScore: groupScores.max }).slice(2)).toEqual([0, 1]);
    expect(run(logits, { ...groups, groupScore: groupScores.top2Sum }).slice(2)).toEqual([2, 3]);
  });

  it("puts NaN first, so that it shows", () => {
    const [weight, , ...experts] = run([1, 2, NaN], { scoring: sigmoid });
    expect(weight).toBeNaN();
    expect(experts).toEqual([2, 1]);
  });
});
