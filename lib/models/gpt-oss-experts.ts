import type { ExpertWeights, Graph } from "../graph/graph.js";
import type { PartStrides, WeightPart } from "../graph/plan.js";
import type { Weight } from "../graph/weight-table.js";
import type { DecoderConfig } from "./fields.js";
import { expertWeights, type MixtureConfig } from "./mixture.js";

export interface GptOssExpertsConfig extends DecoderConfig, MixtureConfig {
  /** Whether matrices of directories are `[experts, outputs, inputs]`, as those in MXFP4, instead of transposed. */
  readonly has_expert_rows: boolean;
}

/** The biased experts of gpt-oss, in each of the layouts that its checkpoints have. */
export function gptOssExperts(g: Graph, c: GptOssExpertsConfig): ExpertWeights {
  if (c.stacked_experts) return stackedExperts(g, c);
  return g.scope("experts", () => {
    return {
      ...(c.has_expert_rows ? rowMatrices : transposedMatrices)(g, c),
      biases: biases(g, c),
    };
  });
}

/** Matrices as `[experts, outputs, inputs]`, those of gate and up apart. */
function stackedExperts(g: Graph, c: GptOssExpertsConfig): ExpertWeights {
  const [experts, hidden, width] = [c.num_experts, c.hidden_size, c.intermediate_size];
  const names = { gate: "gate_proj", up: "up_proj", down: "down_proj" };
  const bias = (name: string, cols: number): Weight =>
    g.vector(`experts.${name}_bias`, biasParts(g, `experts.${name}.bias`, [experts, cols]));
  return {
    ...expertWeights(g, c, names, { width, hidden }),
    biases: {
      gate: bias(names.gate, width),
      up: bias(names.up, width),
      down: bias(names.down, hidden),
    },
  };
}

type Matrices = Omit<ExpertWeights, "biases">;

/** Matrices as `[experts, inputs, outputs]`, the outputs of gate and up in turns. */
function transposedMatrices(g: Graph, c: GptOssExpertsConfig): Matrices {
  const [experts, hidden, width] = [c.num_experts, c.hidden_size, c.intermediate_size];
  const fused = (turn: 0 | 1): WeightPart[] =>
    Array.from({ length: experts }, (_, e) => {
      const first = e * hidden * 2 * width + turn;
      const strides = { first, row: 2, col: 2 * width, cols: hidden };
      return part(g, "gate_up_proj", [experts, hidden, 2 * width], width, strides);
    });
  const down = Array.from({ length: experts }, (_, e) => {
    const strides = { first: e * width * hidden, row: 1, col: hidden, cols: width };
    return part(g, "down_proj", [experts, width, hidden], hidden, strides);
  });
  return {
    gate: g.matrix("gate_proj", fused(0)),
    up: g.matrix("up_proj", fused(1)),
    down: g.matrix("down_proj", down),
  };
}

/** Matrices as `[experts, outputs, inputs]`, the rows of gate and up in turns. */
function rowMatrices(g: Graph, c: GptOssExpertsConfig): Matrices {
  const [experts, hidden, width] = [c.num_experts, c.hidden_size, c.intermediate_size];
  const fused = (turn: 0 | 1): WeightPart[] => {
    const strides = { first: turn * hidden, row: 2 * hidden, col: 1, cols: hidden };
    return [part(g, "gate_up_proj", [experts, 2 * width, hidden], experts * width, strides)];
  };
  return {
    gate: g.matrix("gate_proj", fused(0)),
    up: g.matrix("up_proj", fused(1)),
    down: g.matrix("down_proj", [part(g, "down_proj", [experts, hidden, width], experts * hidden)]),
  };
}

/** Those of gate and up in turns. */
function biases(g: Graph, c: GptOssExpertsConfig): NonNullable<ExpertWeights["biases"]> {
  const [experts, hidden, width] = [c.num_experts, c.hidden_size, c.intermediate_size];
  const fused = (turn: 0 | 1): WeightPart[] =>
    biasParts(g, "gate_up_proj_bias", [experts, 2 * width], [turn, 2]);
  return {
    gate: g.vector("gate_proj_bias", fused(0)),
    up: g.vector("up_proj_bias", fused(1)),
    down: g.vector("down_proj_bias", biasParts(g, "down_proj_bias", [experts, hidden])),
  };
}

/** Of a tensor `[experts, length]` each `step`-th element from `first` on, as a vector. */
function biasParts(
  g: Graph,
  name: string,
  shape: readonly [experts: number, length: number],
  [first, step]: readonly [first: number, step: number] = [0, 1],
): WeightPart[] {
  const cols = (shape[0] * shape[1]) / step;
  const strides = { first, row: cols * step, col: step, cols };
  return [part(g, name, shape, 1, strides)];
}

function part(
  g: Graph,
  name: string,
  shape: readonly number[],
  rows: number,
  strides?: PartStrides,
): WeightPart {
  const tensor = `model.${g.path(name)}`;
  return { tensor, shape, rowStart: 0, rows, ...(strides !== undefined && { strides }) };
}
