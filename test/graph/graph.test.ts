import { describe, expect, it } from "vitest";
import {
  createGraph,
  type Graph,
  type MlaAttentionOptions,
  type Tensor,
} from "../../lib/graph/graph.js";
import type { WeightPart } from "../../lib/graph/plan.js";
import type { Weight } from "../../lib/graph/weight-table.js";

const rows = (tensor: string, count: number, cols: number): WeightPart => {
  return { tensor, shape: [count, cols], rowStart: 0, rows: count };
};
const vector = (tensor: string, length: number): WeightPart => {
  return { tensor, shape: [length], rowStart: 0, rows: 1 };
};

/** [tokens, width] */
function source(g: Graph, width: number, name = `source${width}`): Tensor {
  return g.embed(g.table(name, [rows(`${name}.weight`, 10, width)]));
}

function matrix(g: Graph, outputs: number, inputs: number, name = "proj"): Weight {
  return g.matrix(name, [rows(`${name}.weight`, outputs, inputs)]);
}

/** Latent attention of 2 heads of 3 + 2 columns over latents of 4, with values of 5; the rope keys are given. */
function mla(g: Graph, queryRope: Tensor, options: Partial<MlaAttentionOptions>): Tensor {
  const cache = g.kvCache({ numKvHeads: 1, headDim: 6, latentDim: 4 });
  const weights = { keyUp: matrix(g, 8, 3, "key_up"), valueUp: matrix(g, 10, 4, "value_up") };
  const all = { numHeads: 2, scale: 1, ...weights, ...options };
  return g.mlaAttention(source(g, 6), queryRope, cache, all);
}

describe("names", () => {
  it("are those of weights and ops below the open scopes", () => {
    const g = createGraph();
    g.scope("layers.3", () => {
      const x = g.scope("self_attn", () => g.linear(source(g, 4), matrix(g, 6, 4, "o_proj")));
      g.add(x, x, "residual");
    });
    expect(g.steps.map((step) => step.name)).toEqual([
      "layers.3.self_attn.source4",
      "layers.3.self_attn.o_proj",
      "layers.3.residual",
    ]);
    expect(g.path("x")).toBe("x");
  });

  it("of scopes end with the scope, even when it throws", () => {
    const g = createGraph();
    expect(() =>
      g.scope("a", () => {
        throw new Error("inside");
      }),
    ).toThrow("inside");
    expect(g.path("b")).toBe("b");
  });

  it("are unique", () => {
    const g = createGraph();
    const x = source(g, 4);
    g.add(x, x);
    expect(() => g.add(x, x)).toThrow("[add] add: another step has this name");
  });
});

describe("shapes", () => {
  it("of results follow from operands and weights", () => {
    const g = createGraph();
    const x = source(g, 8);
    expect(x).toMatchObject({ rows: "tokens", width: 8 });
    expect(g.linear(x, matrix(g, 12, 8))).toMatchObject({ rows: "tokens", width: 12 });
    expect(g.takeRows(x)).toMatchObject({ rows: "outputs", width: 8 });
    expect(g.ropeTable(g.constant("frequency", new Float32Array(3)))).toMatchObject({ width: 6 });
    const cache = g.kvCache({ numKvHeads: 2, headDim: 2 });
    expect(g.attention(x, cache, { numHeads: 4, scale: 1 })).toMatchObject({ width: 8 });
    const latent = g.kvCache({ numKvHeads: 1, headDim: 6, latentDim: 4 });
    const [query, queryRope] = [g.columns(x, 0, 6), g.columns(x, 0, 4)];
    const weights = { keyUp: matrix(g, 8, 3, "key_up"), valueUp: matrix(g, 10, 4, "value_up") };
    const options = { numHeads: 2, scale: 1, ...weights };
    const attended = g.mlaAttention(query, queryRope, latent, options, "mla");
    expect(attended).toMatchObject({ rows: "tokens", width: 10 });
    const keyExpand = matrix(g, 6, 4, "key_expand");
    g.mlaAttention(query, queryRope, latent, { ...options, keyExpand, expandFrom: 64 }, "long");
    expect(g.steps.at(-1)?.attributes).toEqual({ layer: 1, numHeads: 2, scale: 1, expandFrom: 64 });
    expect(g.steps.at(-1)?.weights).toHaveLength(3);
    expect(g.gatherKv(cache)).toMatchObject({ rows: "tokens", width: 8 });
    expect(g.gatherKv(latent, "gather_latent")).toMatchObject({ rows: "tokens", width: 6 });
  });

  const mistakes: [string, (g: Graph, x: Tensor) => unknown, string][] = [
    [
      "linear",
      (g, x) => g.linear(x, matrix(g, 6, 5)),
      "[proj] linear: x is [tokens, 8] but weight is [6, 5]",
    ],
    [
      "bias",
      (g, x) => g.linear(x, matrix(g, 6, 8), g.vector("bias", [vector("b", 5)])),
      "[proj] linear: weight is [6, 8] but bias is [5]",
    ],
    [
      "rmsNorm",
      (g, x) => g.rmsNorm(x, g.vector("norm", [vector("n", 3)]), { eps: 1e-6 }),
      "[norm] rmsNorm: x is [tokens, 8] but weight is [3]",
    ],
    ["add", (g, x) => g.add(x, source(g, 4)), "[add] add: a is [tokens, 8] but b is [tokens, 4]"],
    [
      "add of other rows",
      (g, x) => g.add(x, g.takeRows(x)),
      "a is [tokens, 8] but b is [outputs, 8]",
    ],
    [
      "gatedActivation",
      (g, x) => g.gatedActivation(x, source(g, 7), "silu"),
      "[activation] gatedActivation: gate is [tokens, 8] but up is [tokens, 7]",
    ],
    [
      "takeRows twice",
      (g, x) => g.takeRows(g.takeRows(x), "again"),
      "[again] takeRows: x is [outputs, 8]",
    ],
    [
      "rope, odd",
      (g, x) => g.rope(x, source(g, 3), { headDim: 4, rotaryDim: 3 }),
      "but rotaryDim is 3",
    ],
    [
      "rope, too wide",
      (g, x) => g.rope(x, source(g, 6), { headDim: 4, rotaryDim: 6 }),
      "but rotaryDim is 6",
    ],
    [
      "rope, other table",
      (g, x) => g.rope(x, source(g, 6), { headDim: 4, rotaryDim: 4 }),
      "table is [tokens, 6]",
    ],
    [
      "rope, part of a head",
      (g, x) => g.rope(x, source(g, 2), { headDim: 3, rotaryDim: 2 }),
      "heads of 3",
    ],
    [
      "cacheWrite",
      (g, x) => g.cacheWrite(x, x, g.kvCache({ numKvHeads: 1, headDim: 4 })),
      "[cache_write] cacheWrite: key is [tokens, 8], value is [tokens, 8], but the cache holds [tokens, 4]",
    ],
    [
      "attention",
      (g, x) => g.attention(x, g.kvCache({ numKvHeads: 1, headDim: 4 }), { numHeads: 3, scale: 1 }),
      "[attention] attention: query is [tokens, 8] but the heads are [tokens, 12]",
    ],
    [
      "cacheWrite to a latent cache",
      (g, x) => g.cacheWrite(x, x, g.kvCache({ numKvHeads: 1, headDim: 8, latentDim: 4 })),
      "[cache_write] cacheWrite: the cache is a latent one",
    ],
    [
      "attention over a latent cache",
      (g, x) =>
        g.attention(x, g.kvCache({ numKvHeads: 1, headDim: 8, latentDim: 4 }), {
          numHeads: 1,
          scale: 1,
        }),
      "[attention] attention: the cache is a latent one",
    ],
    [
      "latentWrite",
      (g, x) => g.latentWrite(x, x, g.kvCache({ numKvHeads: 1, headDim: 12, latentDim: 8 })),
      "latent is [tokens, 8], ropeKey is [tokens, 8], but the cache holds [tokens, 8 + 4]",
    ],
    [
      "latentWrite to another cache",
      (g, x) => g.latentWrite(x, x, g.kvCache({ numKvHeads: 1, headDim: 16 })),
      "[latent_write] latentWrite: the cache holds K and V apart",
    ],
    [
      "mlaAttention",
      (g, x) => mla(g, x, {}),
      "query is [tokens, 6], queryRope is [tokens, 8], but there are 2 heads with rope keys of 2",
    ],
    [
      "mlaAttention, keyUp",
      (g, x) => mla(g, g.columns(x, 0, 4), { keyUp: matrix(g, 8, 4) }),
      "keyUp is [8, 4], valueUp is [10, 4], but query is [tokens, 6], queryRope is [tokens, 4] with 2 heads and latents of 4",
    ],
    [
      "mlaAttention, valueUp",
      (g, x) => mla(g, g.columns(x, 0, 4), { valueUp: matrix(g, 9, 4) }),
      "keyUp is [8, 3], valueUp is [9, 4], but",
    ],
    [
      "mlaAttention, keyExpand",
      (g, x) => mla(g, g.columns(x, 0, 4), { keyExpand: matrix(g, 6, 3) }),
      "keyExpand is [6, 3], but",
    ],
    [
      "mlaAttention, expandFrom alone",
      (g, x) => mla(g, g.columns(x, 0, 4), { expandFrom: 1 }),
      "keyExpand is absent, but",
    ],
    [
      "kvCache, odd latents",
      (g) => g.kvCache({ numKvHeads: 1, headDim: 8, latentDim: 3 }),
      "kvCache: 1 heads of 8 with latents of 3",
    ],
    [
      "kvCache, latents of several heads",
      (g) => g.kvCache({ numKvHeads: 2, headDim: 8, latentDim: 4 }),
      "kvCache: 2 heads of 8 with latents of 4",
    ],
    [
      "attention, groups",
      (g, x) => g.attention(x, g.kvCache({ numKvHeads: 3, headDim: 2 }), { numHeads: 4, scale: 1 }),
      "4 query heads do not divide over 3 KV heads",
    ],
    ["sample", (g, x) => g.sample(x), "[sample] sample: logits are [tokens, 8]"],
    [
      "columns",
      (g, x) => g.columns(x, 5, 4),
      "[source8] columns: [5, 9) is not inside [tokens, 8]",
    ],
    [
      "split",
      (g, x) => g.split(x, [3, 4]),
      "[source8] split: widths add up to 7 but x is [tokens, 8]",
    ],
    [
      "parts",
      (g) => g.matrix("m", [rows("a", 2, 3), rows("b", 2, 4)]),
      "[m] weight: rows 0 to 2 of 3 columns of b",
    ],
    ["vector", (g) => g.vector("v", [rows("a", 2, 3)]), "[v] vector: a has shape [2, 3]"],
  ];

  it.each(mistakes)("%s: a mistake names the op and both shapes", (_, build, message) => {
    const g = createGraph();
    const x = source(g, 8);
    expect(() => build(g, x)).toThrow(
      expect.objectContaining({ code: "ERR_INTERNAL", message: expect.stringContaining(message) }),
    );
  });

  it("name the scopes in errors", () => {
    const g = createGraph();
    const x = source(g, 8);
    const build = (): Tensor => g.scope("layers.0", () => g.add(x, g.columns(x, 0, 4), "residual"));
    expect(build).toThrow("[layers.0.residual] add: a is [tokens, 8] but b is [tokens, 4]");
  });
});

describe("views", () => {
  it("add no step and keep their place in nested views", () => {
    const g = createGraph();
    const x = source(g, 10);
    const [, middle] = g.split(x, [2, 5, 3]);
    expect(g.columns(middle, 1, 3)).toEqual({ ...x, start: 3, width: 3 });
    expect(g.steps).toHaveLength(1);
  });
});

describe("weights", () => {
  it("with equal parts are one, and a matrix if any linear uses it", () => {
    const g = createGraph();
    const part = rows("embed.weight", 10, 8);
    const x = g.embed(g.table("embed_tokens", [part]));
    expect(g.weights.all).toMatchObject([{ name: "embed_tokens", kind: "table" }]);
    g.linear(x, g.matrix("lm_head", [part]));
    expect(g.weights.all).toMatchObject([
      { name: "embed_tokens", kind: "matrix", rows: 10, cols: 8 },
    ]);
    expect(g.steps.map((step) => [step.name, step.weights])).toEqual([
      ["embed_tokens", [0]],
      ["lm_head", [0, undefined]],
    ]);
    g.table("again", [part]);
    expect(g.weights.all).toMatchObject([{ kind: "matrix" }]);
  });

  it("of stacked parts have the sum of their rows, joined vectors the sum of their lengths", () => {
    const g = createGraph();
    expect(g.matrix("qkv", [rows("q", 4, 8), rows("k", 2, 8)])).toMatchObject({ rows: 6, cols: 8 });
    expect(g.vector("bias", [vector("q", 4), vector("k", 2)])).toMatchObject({ rows: 1, cols: 6 });
  });

  it("with other parts are others", () => {
    const g = createGraph();
    g.matrix("a", [rows("x", 4, 8)]);
    g.matrix("b", [{ ...rows("x", 4, 8), rows: 2 }]);
    g.vector("c", [vector("x", 8)]);
    g.constant("d", new Float32Array(8));
    g.constant("e", new Float32Array(8));
    expect(g.weights.all.map((weight) => weight.name)).toEqual(["a", "b", "c", "d", "e"]);
  });
});

describe("quantised tensors", () => {
  const quantized = new Map([
    ["a.weight", "q4_k"],
    ["b.weight", "q4_k"],
    ["c.weight", "q6_k"],
  ] as const);
  const parts = (names: string) => [...names].map((name) => rows(`${name}.weight`, 4, 256));

  it("are stacked with those of their type only", () => {
    const g = createGraph({ kept: quantized });
    expect(g.canStack(parts("ab"))).toBe(true);
    expect(g.canStack(parts("ac"))).toBe(false);
    expect(g.canStack(parts("ad"))).toBe(false);
    expect(g.canStack(parts("de"))).toBe(true);
    expect(() => g.matrix("mixed", parts("abc"))).toThrow("different types");
  });

  it("give their type to the weight", () => {
    const g = createGraph({ kept: quantized });
    for (const name of "acd") g.matrix(name, parts(name));
    expect(g.weights.all.map((weight) => weight.dtype)).toEqual(["q4_k", "q6_k", undefined]);
  });
});
