import { PagodaError } from "../errors.js";
import { isQuantized, type KeptDtype } from "./dtypes.js";
import { elementsPerToken } from "./kv-groups.js";
import {
  activations,
  groupScores,
  layouts,
  scorings,
  type Activation,
  type GroupScore,
  type Op,
  type Scoring,
} from "./ops.js";
import type { KvShape, Rows, WeightPart } from "./plan.js";
import { WeightTable, type Weight } from "./weight-table.js";

/** A two-dimensional value `[rows, width]`: columns `[start, start + width)` of what one step wrote. */
export interface Tensor {
  /** Into {@link Graph.values}. */
  readonly value: number;
  readonly rows: Rows;
  /** First column. */
  readonly start: number;
  readonly width: number;
}

/** What one step writes, once. */
export interface Value {
  readonly rows: Rows;
  readonly width: number;
  /** Into {@link Graph.steps}. */
  readonly step: number;
}

/** Types of the checkpoint tensors that stay in memory as they are in their files, by name. */
export type KeptTensors = ReadonlyMap<string, KeptDtype>;

export interface GraphOptions {
  /** @default none */
  readonly kept?: KeptTensors | undefined;
  /** What models give `mlaAttention` as `expandFrom`. @default 0 */
  readonly mlaExpandFrom?: number | undefined;
  /** Tokens of the longest sequence, by which models choose what LongRoPE divides by. @default Infinity */
  readonly maxModelLen?: number | undefined;
}

export interface GraphStep {
  readonly op: Op;
  readonly name: string;
  readonly inputs: readonly Tensor[];
  readonly output?: Tensor;
  /** Indices of weights, `undefined` where an optional one is absent. */
  readonly weights: readonly (number | undefined)[];
  readonly attributes: Readonly<Record<string, number>>;
}

/** The KV cache of one attention layer. */
export interface KvCache extends KvShape {
  readonly layer: number;
}

export interface RopeOptions {
  readonly headDim: number;
  /** Leading columns of each head that are rotated; even. */
  readonly rotaryDim: number;
  /** Pairs are neighbours instead of halves. @default false */
  readonly interleaved?: boolean;
}

export interface AttentionOptions {
  readonly numHeads: number;
  /** Factor of the scores, usually 1 / sqrt(headDim). */
  readonly scale: number;
  /** Tokens that a token sees, itself included; 0: all. @default 0 */
  readonly slidingWindow?: number;
  /** Scores become softcap * tanh(score / softcap); 0: no cap. @default 0 */
  readonly softcap?: number;
  /** `[numHeads]`, one more score in the softmax of each head, without a value. @default none */
  readonly sinks?: Weight | undefined;
}

export interface MlaAttentionOptions extends Pick<AttentionOptions, "numHeads" | "scale"> {
  /** `[numHeads * latentDim, qkNopeHeadDim]`: W_UK of each head, transposed. */
  readonly keyUp: Weight;
  /** `[numHeads * vHeadDim, latentDim]`: W_UV of each head. */
  readonly valueUp: Weight;
  /** `[numHeads * qkNopeHeadDim, latentDim]`: W_UK of each head, which the expanded form needs. @default none */
  readonly keyExpand?: Weight | undefined;
  /**
   * Requests with at least so many tokens in a step make keys and values of the latents instead of moving W_UK and W_UV to the
   * other side of the products: less work for long chunks, and other bits. 0: no request does. @default 0
   */
  readonly expandFrom?: number;
}

export interface RouteOptions {
  /** Experts of a row. */
  readonly topK: number;
  readonly scoring: Scoring;
  /** `[experts]`, added to the scores where experts are compared. @default none */
  readonly bias?: Weight | undefined;
  /** Whether the weights of a row are divided by their sum. @default false */
  readonly normalize?: boolean;
  /** Factor of the weights. @default 1 */
  readonly scale?: number;
  /** Groups of neighbouring experts, of which only the best `topGroups` are asked. @default none */
  readonly groups?: {
    readonly numGroups: number;
    readonly topGroups: number;
    readonly score: GroupScore;
  };
}

/** Each holds expert after expert. */
export interface ExpertWeights {
  /** `[experts * width, x.width]` */
  readonly gate: Weight;
  readonly up: Weight;
  /** `[experts * outputs, width]` */
  readonly down: Weight;
  /** `[experts * width]`, `[experts * width]` and `[experts * outputs]`. @default none */
  readonly biases?: { readonly gate: Weight; readonly up: Weight; readonly down: Weight };
}

/**
 * A model as a graph of coarse ops in single-assignment form. Token ids, positions, block tables and the like are inputs
 * of every step and therefore not part of it. Each method checks shapes, appends one step (views: none) and returns what
 * it writes. Steps are named by their weight or their op, below the scopes they stand in; names are unique.
 *
 * Shape errors are ERR_INTERNAL: a model function checks its config first, so they are bugs of the model function.
 */
export class Graph {
  readonly weights: WeightTable = new WeightTable();
  readonly #steps: GraphStep[] = [];
  readonly #values: Value[] = [];
  readonly #kvLayers: KvShape[] = [];
  readonly #names = new Set<string>();
  readonly #scopes: string[] = [];
  readonly #kept: KeptTensors;
  readonly mlaExpandFrom: number;
  readonly maxModelLen: number;

  constructor({ kept = new Map(), mlaExpandFrom = 0, maxModelLen = Infinity }: GraphOptions) {
    this.#kept = kept;
    this.mlaExpandFrom = mlaExpandFrom;
    this.maxModelLen = maxModelLen;
  }

  get steps(): readonly GraphStep[] {
    return this.#steps;
  }

  get values(): readonly Value[] {
    return this.#values;
  }

  get kvLayers(): readonly KvShape[] {
    return this.#kvLayers;
  }

  // ---- names

  /** Runs `build` with `name.` before the names of all steps and weights made inside. */
  scope<T>(name: string, build: () => T): T {
    this.#scopes.push(name);
    try {
      return build();
    } finally {
      this.#scopes.pop();
    }
  }

  /** `name` below the scopes that are open, e.g. `layers.3.self_attn.o_proj`. */
  path(name: string): string {
    return [...this.#scopes, name].join(".");
  }

  // ---- weights

  /** Whether the parts may be one weight: it has one type, which quantised tensors bring with them. */
  canStack(parts: readonly WeightPart[]): boolean {
    return new Set(parts.map(({ tensor }) => this.#kept.get(tensor))).size === 1;
  }

  /** Weight of a linear, `[outputs, inputs]`: parts of checkpoint tensors, stacked by rows. */
  matrix(name: string, parts: readonly WeightPart[]): Weight {
    return this.#rows("matrix", name, parts);
  }

  /** Weight that is only looked up, `[rows, cols]`. */
  table(name: string, parts: readonly WeightPart[]): Weight {
    return this.#rows("table", name, parts);
  }

  /** One-dimensional weight: checkpoint tensors joined end to end. */
  vector(name: string, parts: readonly WeightPart[]): Weight {
    for (const { tensor, shape, strides } of parts) {
      this.#check(
        shape.length === 1 || strides !== undefined,
        "vector",
        this.path(name),
        `${tensor} has shape [${shape.join(", ")}]`,
      );
    }
    return this.weights.vector(this.path(name), parts);
  }

  /** One-dimensional weight of data known now. */
  constant(name: string, data: Float32Array): Weight {
    return this.weights.constant("vector", this.path(name), data, 1);
  }

  // ---- ops

  /** `[tokens, cols]`: rows of `table` picked by the token ids, times `scale`. */
  embed(table: Weight, options: { readonly scale?: number } = {}): Tensor {
    const attributes = { scale: options.scale ?? 1 };
    return this.#step("embed", table.name, [], "tokens", table.cols, {
      weights: [table],
      attributes,
    });
  }

  /** x / sqrt(mean(x^2) + eps) * (weight + weightOffset) over each group of `weight.cols` columns. */
  rmsNorm(x: Tensor, weight: Weight, options: { eps: number; weightOffset?: number }): Tensor {
    const groupWidth = weight.cols;
    const fits = x.width % groupWidth === 0;
    this.#check(fits, "rmsNorm", weight.name, `x is ${text(x)} but weight is [${groupWidth}]`);
    const attributes = { groupWidth, eps: options.eps, weightOffset: options.weightOffset ?? 0 };
    return this.#step("rmsNorm", weight.name, [x], x.rows, x.width, {
      weights: [weight],
      attributes,
    });
  }

  /** x * weight^T + bias: `[rows, weight.rows]`. */
  linear(x: Tensor, weight: Weight, bias?: Weight): Tensor {
    const fits = x.width === weight.cols;
    const shape = shapeOf(weight);
    this.#check(fits, "linear", weight.name, `x is ${text(x)} but weight is ${shape}`);
    const biasFits = bias === undefined || bias.cols === weight.rows;
    this.#check(biasFits, "linear", weight.name, `weight is ${shape} but bias is [${bias?.cols}]`);
    return this.#step("linear", weight.name, [x], x.rows, weight.rows, { weights: [weight, bias] });
  }

  /** Cosines and sines of this step's positions, `[tokens, 2 * frequency.cols]`. */
  ropeTable(frequency: Weight, options: { readonly scaling?: number } = {}): Tensor {
    const attributes = { scaling: options.scaling ?? 1 };
    const width = 2 * frequency.cols;
    return this.#step("ropeTable", frequency.name, [], "tokens", width, {
      weights: [frequency],
      attributes,
    });
  }

  /** Rotates the heads of `x` by the angles of `table`. */
  rope(x: Tensor, table: Tensor, options: RopeOptions, name = "rope"): Tensor {
    const path = this.path(name);
    const { headDim, rotaryDim } = options;
    const operands = `x is ${text(x)} of heads of ${headDim}, table is ${text(table)}`;
    const rotates = rotaryDim % 2 === 0 && rotaryDim <= headDim;
    const fits = x.width % headDim === 0 && table.width === rotaryDim && x.rows === "tokens";
    this.#check(rotates && fits, "rope", path, `${operands}, but rotaryDim is ${rotaryDim}`);
    const attributes = { headDim, rotaryDim, interleaved: options.interleaved ? 1 : 0 };
    return this.#step("rope", path, [x, table], x.rows, x.width, { attributes });
  }

  /** Adds an attention layer's KV cache to the model. */
  kvCache(layer: KvShape): KvCache {
    const { numKvHeads, headDim, latentDim = 0 } = layer;
    const isEven = latentDim % 2 === 0 && headDim % 2 === 0;
    const fits = numKvHeads === 1 && isEven && latentDim > 0 && latentDim < headDim;
    const shape = `${numKvHeads} heads of ${headDim} with latents of ${latentDim}`;
    this.#check(layer.latentDim === undefined || fits, "kvCache", this.path("kv_cache"), shape);
    return { layer: this.#kvLayers.push(layer) - 1, ...layer };
  }

  /** Stores K and V of this step's tokens, each `[tokens, numKvHeads * headDim]`. */
  cacheWrite(key: Tensor, value: Tensor, cache: KvCache, name = "cache_write"): void {
    const path = this.path(name);
    this.#checkLatent("cacheWrite", path, cache, false);
    const width = cache.numKvHeads * cache.headDim;
    const fits = [key, value].every((x) => x.width === width && x.rows === "tokens");
    const operands = `key is ${text(key)}, value is ${text(value)}`;
    this.#check(fits, "cacheWrite", path, `${operands}, but the cache holds [tokens, ${width}]`);
    this.#append({
      op: "cacheWrite",
      name: path,
      inputs: [key, value],
      weights: [],
      attributes: { layer: cache.layer },
    });
  }

  /** Causal attention of `query` `[tokens, numHeads * headDim]` over the cache; what was written before counts. */
  attention(query: Tensor, cache: KvCache, options: AttentionOptions, name = "attention"): Tensor {
    const path = this.path(name);
    const { numHeads, scale, slidingWindow = 0, softcap = 0 } = options;
    this.#checkLatent("attention", path, cache, false);
    const width = numHeads * cache.headDim;
    const fits = query.width === width && query.rows === "tokens";
    this.#check(
      fits,
      "attention",
      path,
      `query is ${text(query)} but the heads are [tokens, ${width}]`,
    );
    const grouped = numHeads % cache.numKvHeads === 0;
    const heads = `${numHeads} query heads do not divide over ${cache.numKvHeads} KV heads`;
    this.#check(grouped, "attention", path, heads);
    const sinks = options.sinks;
    const sinksFit = sinks === undefined || sinks.cols === numHeads;
    this.#check(sinksFit, "attention", path, `${numHeads} heads but ${sinks?.cols} sinks`);
    const attributes = { layer: cache.layer, numHeads, scale, slidingWindow, softcap };
    const more = { weights: [sinks], attributes };
    return this.#step("attention", path, [query], "tokens", width, more);
  }

  /** Stores `[latent | ropeKey]` of this step's tokens in a latent cache. */
  latentWrite(latent: Tensor, ropeKey: Tensor, cache: KvCache, name = "latent_write"): void {
    const path = this.path(name);
    const latentDim = this.#checkLatent("latentWrite", path, cache, true);
    const ropeDim = cache.headDim - latentDim;
    const operands = `latent is ${text(latent)}, ropeKey is ${text(ropeKey)}`;
    const tokens = latent.rows === "tokens" && ropeKey.rows === "tokens";
    const fits = tokens && latent.width === latentDim && ropeKey.width === ropeDim;
    const holds = `[tokens, ${latentDim} + ${ropeDim}]`;
    this.#check(fits, "latentWrite", path, `${operands}, but the cache holds ${holds}`);
    this.#append({
      op: "latentWrite",
      name: path,
      inputs: [latent, ropeKey],
      weights: [],
      attributes: { layer: cache.layer },
    });
  }

  /**
   * Causal multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) over a latent cache; what was written before counts.
   * `query` `[tokens, numHeads * qkNopeHeadDim]` is the part without rope, `queryRope` `[tokens, numHeads * qkRopeHeadDim]` the
   * part after rope. Gives `[tokens, numHeads * vHeadDim]`.
   */
  mlaAttention(
    query: Tensor,
    queryRope: Tensor,
    cache: KvCache,
    options: MlaAttentionOptions,
    name = "attention",
  ): Tensor {
    const path = this.path(name);
    const { numHeads, scale, keyUp, valueUp, keyExpand, expandFrom = 0 } = options;
    const latentDim = this.#checkLatent("mlaAttention", path, cache, true);
    const ropeDim = cache.headDim - latentDim;
    const tokens = query.rows === "tokens" && queryRope.rows === "tokens";
    const fits = tokens && query.width % numHeads === 0 && queryRope.width === numHeads * ropeDim;
    const operands = `query is ${text(query)}, queryRope is ${text(queryRope)}`;
    const heads = `${numHeads} heads with rope keys of ${ropeDim}`;
    this.#check(fits, "mlaAttention", path, `${operands}, but there are ${heads}`);
    const upFits = keyUp.rows === numHeads * latentDim && keyUp.cols * numHeads === query.width;
    const valueFits = valueUp.rows % numHeads === 0 && valueUp.cols === latentDim;
    const weights = `keyUp is ${shapeOf(keyUp)}, valueUp is ${shapeOf(valueUp)}`;
    const latents = `${operands} with ${numHeads} heads and latents of ${latentDim}`;
    this.#check(upFits && valueFits, "mlaAttention", path, `${weights}, but ${latents}`);
    const expandFits =
      keyExpand === undefined
        ? expandFrom === 0
        : keyExpand.rows === query.width && keyExpand.cols === latentDim;
    const expand = keyExpand === undefined ? "absent" : shapeOf(keyExpand);
    this.#check(expandFits, "mlaAttention", path, `keyExpand is ${expand}, but ${latents}`);
    return this.#step("mlaAttention", path, [query, queryRope], "tokens", valueUp.rows, {
      weights: [keyUp, valueUp, keyExpand],
      attributes: { layer: cache.layer, numHeads, scale, expandFrom },
    });
  }

  /**
   * Reads this step's tokens back from the cache, as attention sees them: K of all heads, then V of all heads,
   * `[tokens, 2 * numKvHeads * headDim]`; of a latent cache `[latent | rope key]`, `[tokens, headDim]`.
   */
  gatherKv(cache: KvCache, name = "gather_kv"): Tensor {
    const attributes = { layer: cache.layer, layout: layouts.nd };
    const width = elementsPerToken(cache);
    return this.#step("gatherKv", this.path(name), [], "tokens", width, { attributes });
  }

  /** activation(gate) * up */
  gatedActivation(gate: Tensor, up: Tensor, activation: Activation, name = "activation"): Tensor {
    const path = this.path(name);
    this.#checkSame("gatedActivation", path, ["gate", gate], ["up", up]);
    const attributes = { activation: activations[activation] };
    return this.#step("gatedActivation", path, [gate, up], gate.rows, gate.width, { attributes });
  }

  add(a: Tensor, b: Tensor, name = "add"): Tensor {
    const path = this.path(name);
    this.#checkSame("add", path, ["a", a], ["b", b]);
    return this.#step("add", path, [a, b], a.rows, a.width);
  }

  /** The experts of each row by its `[rows, experts]` logits: `[rows, 2 * topK]`, weights, then the experts' numbers. */
  route(logits: Tensor, options: RouteOptions, name = "route"): Tensor {
    const path = this.path(name);
    const { topK, scoring, bias, normalize = false, scale = 1 } = options;
    const numExperts = logits.width;
    const { groups = { numGroups: 1, topGroups: 1, score: "max" as const } } = options;
    const { numGroups, topGroups, score } = groups;
    const groupSize = numExperts / numGroups;
    const grouped = Number.isInteger(groupSize) && topGroups >= 1 && topGroups <= numGroups;
    const text = `${numExperts} experts in ${numGroups} groups, ${topGroups} of them asked`;
    this.#check(grouped, "route", path, text);
    this.#check(
      topK >= 1 && topK <= topGroups * groupSize,
      "route",
      path,
      `top ${topK} of ${text}`,
    );
    const paired = numGroups === 1 || score === "max" || groupSize >= 2;
    this.#check(paired, "route", path, `groups of ${groupSize} have no two best`);
    const biasFits = bias === undefined || bias.cols === numExperts;
    this.#check(biasFits, "route", path, `${numExperts} experts but bias is [${bias?.cols}]`);
    const attributes = {
      topK,
      scoring: scorings[scoring],
      normalize: normalize ? 1 : 0,
      scale,
      numGroups,
      topGroups,
      groupScore: groupScores[score],
    };
    const more = { weights: [bias], attributes };
    return this.#step("route", path, [logits], logits.rows, 2 * topK, more);
  }

  /** Sum over the experts of each row of weight * down(activation(gate(x), up(x))): `[rows, outputs]`. */
  experts(
    x: Tensor,
    route: Tensor,
    weights: ExpertWeights,
    options: { readonly numExperts: number; readonly activation: Activation },
    name = "experts",
  ): Tensor {
    const path = this.path(name);
    const { numExperts, activation } = options;
    const { gate, up, down, biases } = weights;
    const [width, outputs] = [gate.rows / numExperts, down.rows / numExperts];
    const routed = route.rows === x.rows && route.width % 2 === 0 && route.width <= 2 * numExperts;
    this.#check(routed, "experts", path, `x is ${text(x)} but route is ${text(route)}`);
    const fits =
      [gate, up].every(({ rows, cols }) => rows === gate.rows && cols === x.width) &&
      down.cols === width &&
      Number.isInteger(outputs);
    const shapes = [gate, up, down].map(shapeOf).join(", ");
    this.#check(fits, "experts", path, `x is ${text(x)} but the weights are ${shapes}`);
    const biasesFit =
      biases === undefined ||
      (biases.gate.cols === gate.rows &&
        biases.up.cols === up.rows &&
        biases.down.cols === down.rows);
    this.#check(biasesFit, "experts", path, `the weights are ${shapes} but their biases are not`);
    return this.#step("experts", path, [x, route], x.rows, outputs, {
      weights: [gate, up, down, biases?.gate, biases?.up, biases?.down],
      attributes: { numExperts, activation: activations[activation] },
    });
  }

  /** Of `[tokens, width]` the rows that need logits: `[outputs, width]`. */
  takeRows(x: Tensor, name = "take_rows"): Tensor {
    const path = this.path(name);
    this.#check(x.rows === "tokens", "takeRows", path, `x is ${text(x)}, not [tokens, width]`);
    return this.#step("takeRows", path, [x], "outputs", x.width);
  }

  /** Draws the tokens; the last step of every graph that is compiled. */
  sample(logits: Tensor, name = "sample"): void {
    const path = this.path(name);
    this.#check(logits.rows === "outputs", "sample", path, `logits are ${text(logits)}`);
    this.#append({
      op: "sample",
      name: path,
      inputs: [logits],
      weights: [],
      attributes: {},
    });
  }

  // ---- views: no step, no copy

  /** Columns `[start, start + width)` of `x`. */
  columns(x: Tensor, start: number, width: number): Tensor {
    const inside = start >= 0 && width > 0 && start + width <= x.width;
    this.#check(
      inside,
      "columns",
      this.#nameOf(x),
      `[${start}, ${start + width}) is not inside ${text(x)}`,
    );
    return { ...x, start: x.start + start, width };
  }

  /** `x` cut into neighbouring column ranges of the given widths, which must add up to its own. */
  split<const W extends readonly number[]>(
    x: Tensor,
    widths: W,
  ): { -readonly [K in keyof W]: Tensor } {
    let start = 0;
    const parts = widths.map((width) => {
      const part = this.columns(x, start, width);
      start += width;
      return part;
    });
    this.#check(
      start === x.width,
      "split",
      this.#nameOf(x),
      `widths add up to ${start} but x is ${text(x)}`,
    );
    return parts as { -readonly [K in keyof W]: Tensor };
  }

  // ---- private

  #rows(kind: "matrix" | "table", name: string, parts: readonly WeightPart[]): Weight {
    const path = this.path(name);
    this.#check(this.canStack(parts), "weight", path, "its parts have different types");
    const cols = this.#checkParts(name, parts);
    const dtype = this.#keptType(parts[0]);
    return this.weights.rows(kind, path, parts, { cols, ...(dtype && { dtype }) });
  }

  /** The type that a matrix of such parts keeps; transposed blocks have none. */
  #keptType(part: WeightPart | undefined): KeptDtype | undefined {
    const dtype = this.#kept.get(part?.tensor ?? "");
    const isTransposed = part?.strides !== undefined && part.strides.col !== 1;
    return isTransposed && dtype !== undefined && isQuantized(dtype) ? undefined : dtype;
  }

  #step(
    op: Op,
    name: string,
    inputs: readonly Tensor[],
    rows: Rows,
    width: number,
    more: { weights?: readonly (Weight | undefined)[]; attributes?: Record<string, number> } = {},
  ): Tensor {
    const value = this.#values.push({ rows, width, step: this.#steps.length }) - 1;
    const output: Tensor = { value, rows, start: 0, width };
    const weights = (more.weights ?? []).map((weight) => weight?.index);
    this.#append({ op, name, inputs, output, weights, attributes: more.attributes ?? {} });
    return output;
  }

  #append(step: GraphStep): void {
    this.#check(!this.#names.has(step.name), step.op, step.name, "another step has this name");
    this.#names.add(step.name);
    this.#steps.push(step);
  }

  /** Name of the step that wrote `x`. */
  #nameOf(x: Tensor): string {
    return this.#steps[this.#values[x.value]?.step ?? -1]?.name ?? "";
  }

  /** Returns the columns that all parts share. */
  #checkParts(name: string, parts: readonly WeightPart[]): number {
    const cols = parts[0]?.strides?.cols ?? parts[0]?.shape.at(-1) ?? 0;
    for (const part of parts) {
      if (isInside(part, cols)) continue; // mixtures have tens of thousands of parts: no text for those
      const { tensor, shape, rowStart, rows, strides } = part;
      const what = strides === undefined ? `rows ${rowStart} to ${rowStart + rows}` : "elements";
      const where = `${tensor} with shape [${shape.join(", ")}]`;
      this.#check(false, "weight", name, `${what} of ${cols} columns of ${where}`);
    }
    return cols;
  }

  #checkSame(
    op: Op,
    path: string,
    [aName, a]: [string, Tensor],
    [bName, b]: [string, Tensor],
  ): void {
    const same = a.rows === b.rows && a.width === b.width;
    this.#check(same, op, path, `${aName} is ${text(a)} but ${bName} is ${text(b)}`);
  }

  /** `latentDim` of a latent cache; 0 of another. */
  #checkLatent(op: Op, path: string, { latentDim = 0 }: KvCache, isLatent: boolean): number {
    const what = isLatent ? "the cache holds K and V apart" : "the cache is a latent one";
    this.#check(latentDim > 0 === isLatent, op, path, what);
    return latentDim;
  }

  #check(condition: boolean, op: string, path: string, what: string): asserts condition {
    if (condition) return;
    throw new PagodaError("ERR_INTERNAL", `[${path}] ${op}: ${what}`, {
      details: { step: path, op },
    });
  }
}

/** Whether the tensor has all elements of a part with so many columns. */
function isInside({ shape, rowStart, rows, strides }: WeightPart, cols: number): boolean {
  const size = shape.reduce((a, b) => a * b, 1);
  if (strides === undefined) {
    return shape.length >= 2 && shape.at(-1) === cols && (rowStart + rows) * cols <= size;
  }
  const last = strides.first + (rows - 1) * strides.row + (cols - 1) * strides.col;
  return strides.cols === cols && last < size;
}

export function createGraph(options: GraphOptions = {}): Graph {
  return new Graph(options);
}

function text(x: Tensor): string {
  return `[${x.rows}, ${x.width}]`;
}

function shapeOf(weight: Weight): string {
  return `[${weight.rows}, ${weight.cols}]`;
}
