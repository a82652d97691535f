import type { WeightDtype } from "./dtypes.js";
import type { Op } from "./ops.js";

/** Which count gives the number of rows of a tensor in a step: scheduled tokens, or rows that need logits. */
export type Rows = "tokens" | "outputs";

/** Where an op reads or writes: a column range of an arena tensor `[rows, width]`. */
export interface Operand {
  /** Bytes from the start of the arena to element [0, 0]. */
  readonly offset: number;
  readonly rows: Rows;
  /** Columns. */
  readonly width: number;
  /** Elements from one row to the next, at least `width`. */
  readonly rowStride: number;
}

/** One call of one op. */
export interface PlanStep {
  readonly op: Op;
  /** For example `layers.3.self_attn.qkv_proj`; unique in the plan. */
  readonly name: string;
  /** In the order that {@link opSpecs} gives for the op. */
  readonly inputs: readonly Operand[];
  /** Absent for ops that write only the KV cache or the sampled tokens. */
  readonly output?: Operand;
  /** Indices into {@link Plan.weights}, in the order that {@link opSpecs} gives; `undefined`: the optional weight is absent. */
  readonly weights: readonly (number | undefined)[];
  /** Named scalars, all of those that {@link opSpecs} lists for the op. */
  readonly attributes: Readonly<Record<string, number>>;
}

/** `matrix`: [outputs, inputs] of a linear; `table`: rows that are only looked up; `vector`: [1, cols], always f32. */
export type WeightKind = "matrix" | "table" | "vector";

/**
 * Rows `[rowStart, rowStart + rows)` of a checkpoint tensor, those of all its matrices where it has more than two
 * dimensions. A one-dimensional tensor counts as one row.
 */
export interface WeightPart {
  readonly tensor: string;
  /** Shape that the checkpoint's tensor must have. */
  readonly shape: readonly number[];
  readonly rowStart: number;
  readonly rows: number;
  /** Where the rows are not rows of the tensor, e.g. columns of it; `rowStart` is then 0. */
  readonly strides?: PartStrides;
}

/** `[rows, cols]` inside a tensor: element (r, c) is its element `first + r * row + c * col`. */
export interface PartStrides {
  readonly first: number;
  readonly row: number;
  readonly col: number;
  readonly cols: number;
}

/** A weight of the plan: parts of checkpoint tensors stacked by rows (vectors: joined end to end), or constant data. */
export interface PlanWeight {
  readonly name: string;
  readonly kind: WeightKind;
  readonly rows: number;
  readonly cols: number;
  /** In device memory. Vectors are always f32. */
  readonly dtype: WeightDtype;
  readonly source: { readonly parts: readonly WeightPart[] } | { readonly data: Float32Array };
}

/** What one attention layer stores: K and V of `[numBlocks, blockSize, numKvHeads, headDim]`, layout private to the backend. */
export interface KvShape {
  readonly numKvHeads: number;
  readonly headDim: number;
  /**
   * Makes it a latent cache (multi-head latent attention): one head, whose K is a row `[latent | rope key]` of `headDim`
   * columns and whose V is the first `latentDim` columns of the same row, stored once. Both parts have an even number of
   * columns.
   */
  readonly latentDim?: number;
}

/** Attention layers with the same window, which therefore share a block table; see `groupKvLayers`. */
export interface KvGroup {
  /** Tokens that a token attends to, itself included; 0: all. */
  readonly slidingWindow: number;
}

/** The KV cache of one attention layer: the memory of its slot, read and written by the block table of its group. */
export interface KvLayer extends KvShape {
  /** Into {@link Plan.kvGroups}. */
  readonly group: number;
  /** Slots are numbered from 0. Layers of one slot have the same shape, and different groups. */
  readonly slot: number;
}

/** A model as data: steps over an arena whose layout is fixed for at most `maxTokens` and `maxOutputs` rows. */
export interface Plan {
  readonly steps: readonly PlanStep[];
  readonly weights: readonly PlanWeight[];
  /** In the order of the `layer` attributes of attention and cacheWrite. */
  readonly kvLayers: readonly KvLayer[];
  /** At least one. */
  readonly kvGroups: readonly KvGroup[];
  readonly arenaBytes: number;
  /** Rows of "tokens" tensors at most. */
  readonly maxTokens: number;
  /** Rows of "outputs" tensors at most. */
  readonly maxOutputs: number;
  readonly vocabSize: number;
  /** `[outputs, vocabSize]`, f32. */
  readonly logits: Operand;
}
