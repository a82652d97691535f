import type { ExpertWeights, Graph, RouteOptions, Tensor } from "../graph/graph.js";
import type { WeightPart } from "../graph/plan.js";
import type { Activation } from "../graph/ops.js";
import type { Weight } from "../graph/weight-table.js";
import type { ConfigReader } from "../loading/config.js";
import * as blocks from "./blocks.js";

/** Fields of models with a mixture of experts, checked. */
export interface MixtureConfig {
  readonly num_experts: number;
  readonly num_experts_per_tok: number;
  /** Whether one tensor `[experts, rows, cols]` holds a matrix of all experts, instead of one each. */
  readonly stacked_experts: boolean;
}

export interface MixtureDefaults {
  readonly experts: number;
  /** undefined: the field must be there. */
  readonly perToken: number | undefined;
  /** Field with the number of experts. @default `num_experts` or `num_local_experts` */
  readonly field?: string;
}

/** Reads the number of experts, `num_experts_per_tok`, and the `stacked_experts` that GGUF files have. */
export function mixtureConfig(config: ConfigReader, defaults: MixtureDefaults): MixtureConfig {
  const usual = config.has("num_experts") ? "num_experts" : "num_local_experts";
  const { experts, perToken, field = usual } = defaults;
  const num_experts = config.integer(field, { min: 1, max: 4096, default: experts });
  const num_experts_per_tok = config.integer("num_experts_per_tok", {
    min: 1,
    max: num_experts,
    ...(perToken !== undefined && { default: perToken }),
  });
  const stacked_experts = config.boolean("stacked_experts", false);
  return { num_experts, num_experts_per_tok, stacked_experts };
}

/** Names of the matrices of an expert in the checkpoint. */
export interface ExpertNames {
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

/**
 * Weights of experts that have a tensor for each matrix, `experts.E.NAME.weight`, or one for all of them,
 * `experts.NAME.weight`.
 */
export function expertWeights(
  g: Graph,
  c: MixtureConfig,
  names: ExpertNames,
  { width, hidden }: { readonly width: number; readonly hidden: number },
): ExpertWeights {
  const matrix = (name: string, rows: number, cols: number): Weight =>
    g.matrix(`experts.${name}`, expertParts(g, c, name, [rows, cols]));
  return {
    gate: matrix(names.gate, width, hidden),
    up: matrix(names.up, width, hidden),
    down: matrix(names.down, hidden, width),
  };
}

function expertParts(
  g: Graph,
  { num_experts, stacked_experts }: MixtureConfig,
  name: string,
  shape: readonly [rows: number, cols: number],
): WeightPart[] {
  const [rows] = shape;
  const experts = `model.${g.path("experts")}`;
  const part = (path: string, shape: readonly number[], rows: number): WeightPart => {
    return { tensor: `${experts}.${path}.weight`, shape, rowStart: 0, rows };
  };
  if (stacked_experts) return [part(name, [num_experts, ...shape], num_experts * rows)];
  return Array.from({ length: num_experts }, (_, expert) => part(`${expert}.${name}`, shape, rows));
}

export interface MixtureOptions {
  /** Checkpoint name of the matrix that gives the logits of the experts. */
  readonly router: string;
  readonly routerBias?: boolean;
  readonly routing: Omit<RouteOptions, "topK">;
  readonly weights: ExpertWeights;
  readonly activation: Activation;
}

/** A router and its experts in the place of a feed-forward layer (Shazeer et al. 2017, arXiv:1701.06538). */
export function mixture(g: Graph, c: MixtureConfig, x: Tensor, options: MixtureOptions): Tensor {
  const { router, routerBias = false, routing, weights, activation } = options;
  const logits = blocks.projection(g, x, router, c.num_experts, { bias: routerBias });
  const route = g.route(logits, { topK: c.num_experts_per_tok, ...routing });
  return g.experts(x, route, weights, { numExperts: c.num_experts, activation });
}
