/** What an op takes, in the order in which plan steps list it. */
export interface OpSpec {
  /** Tensor operands. */
  readonly inputs: readonly string[];
  /** Weight operands; a name ending in "?" may be absent. */
  readonly weights: readonly string[];
  /** Scalars, all required, in single precision. Booleans are 0 or 1, enums their number in native/backend.h. */
  readonly attributes: readonly string[];
  /** Whether it writes a tensor (the others write the KV cache or the sampled tokens). */
  readonly hasOutput: boolean;
}

/**
 * The op set. One word an op in every layer: here, `lib/reference`, `native/backend.h`, `native/cpu`, `native/cuda`,
 * `test/ops`. The addon reports its own table and a test compares the two.
 *
 * `copyBlocks` is not listed: copies are an input of the step, done before its first op.
 */
export const opSpecs = {
  embed: { inputs: [], weights: ["table"], attributes: ["scale"], hasOutput: true },
  rmsNorm: {
    inputs: ["x"],
    weights: ["weight"],
    attributes: ["groupWidth", "eps", "weightOffset"],
    hasOutput: true,
  },
  linear: { inputs: ["x"], weights: ["weight", "bias?"], attributes: [], hasOutput: true },
  ropeTable: { inputs: [], weights: ["frequency"], attributes: ["scaling"], hasOutput: true },
  rope: {
    inputs: ["x", "table"],
    weights: [],
    attributes: ["headDim", "rotaryDim", "interleaved"],
    hasOutput: true,
  },
  cacheWrite: { inputs: ["key", "value"], weights: [], attributes: ["layer"], hasOutput: false },
  attention: {
    inputs: ["query"],
    weights: ["sinks?"],
    attributes: ["layer", "numHeads", "scale", "slidingWindow", "softcap"],
    hasOutput: true,
  },
  latentWrite: {
    inputs: ["latent", "ropeKey"],
    weights: [],
    attributes: ["layer"],
    hasOutput: false,
  },
  mlaAttention: {
    inputs: ["query", "queryRope"],
    weights: ["keyUp", "valueUp", "keyExpand?"],
    attributes: ["layer", "numHeads", "scale", "expandFrom"],
    hasOutput: true,
  },
  gatherKv: { inputs: [], weights: [], attributes: ["layer", "layout"], hasOutput: true },
  gatedActivation: {
    inputs: ["gate", "up"],
    weights: [],
    attributes: ["activation"],
    hasOutput: true,
  },
  add: { inputs: ["a", "b"], weights: [], attributes: [], hasOutput: true },
  route: {
    inputs: ["logits"],
    weights: ["bias?"],
    attributes: ["topK", "scoring", "normalize", "scale", "numGroups", "topGroups", "groupScore"],
    hasOutput: true,
  },
  experts: {
    inputs: ["x", "route"],
    weights: ["gate", "up", "down", "gateBias?", "upBias?", "downBias?"],
    attributes: ["numExperts", "activation"],
    hasOutput: true,
  },
  takeRows: { inputs: ["x"], weights: [], attributes: [], hasOutput: true },
  sample: { inputs: ["logits"], weights: [], attributes: [], hasOutput: false },
} as const;

type OpSpecs<T extends Record<string, OpSpec>> = T;

/** The name of an op. */
export type Op = keyof OpSpecs<typeof opSpecs>;

/** Values of the `activation` attribute, as in `PagodaActivation` of native/backend.h. */
export const activations = { silu: 0, geluTanh: 1, gelu: 2, clampedSwiglu: 3 } as const;

export type Activation = keyof typeof activations;

/** How the elements of `[rows, width]` lie: row after row, or in columns of 8 elements, `[width / 8, rows, 8]`. */
export type Layout = "nd" | "nz";

/** Values of the `layout` attribute, as in `PagodaLayout`. */
export const layouts: Readonly<Record<Layout, number>> = { nd: 0, nz: 1 };

/** Values of the `scoring` attribute, as in `PagodaScoring`. */
export const scorings = { softmax: 0, sigmoid: 1 } as const;

export type Scoring = keyof typeof scorings;

/** Values of the `groupScore` attribute, as in `PagodaGroupScore`. */
export const groupScores = { max: 0, top2Sum: 1 } as const;

export type GroupScore = keyof typeof groupScores;
