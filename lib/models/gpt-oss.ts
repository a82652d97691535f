import type { ExpertWeights, Graph, Tensor } from "../graph/graph.js";
import type { PartStrides, WeightPart } from "../graph/plan.js";
import type { Weight } from "../graph/weight-table.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import {
  decoderConfig,
  layerWindows,
  readLayerTypes,
  unsupported,
  type DecoderConfig,
} from "./fields.js";
import { expertWeights, mixture, mixtureConfig, type MixtureConfig } from "./mixture.js";
import type { Family } from "./model-definition.js";

interface GptOssConfig extends DecoderConfig, MixtureConfig {
  /** Biases of all four attention projections. */
  readonly attention_bias: boolean;
  /** Window of each layer in tokens, 0: none. */
  readonly windows: readonly number[];
  readonly rope: RopeParameters;
}

/** gpt-oss (OpenAI 2025, arXiv:2508.10925): attention sinks, windows in every second layer, biased experts. */
export function gptOss(config: ConfigReader): Family {
  const shared = decoderConfig(config, { head_dim: 64, rms_norm_eps: 1e-5 });
  if (config.number("swiglu_limit", { default: 7 }) !== 7) {
    throw unsupported(config, `a \`swiglu_limit\` of ${config.number("swiglu_limit")}`, ["7"]);
  }
  const types = readLayerTypes(config, shared.num_hidden_layers, (layer) =>
    layer % 2 === 0 ? "sliding_attention" : "full_attention",
  );
  const c: GptOssConfig = {
    ...shared,
    ...mixtureConfig(config, { experts: 128, perToken: 4 }),
    attention_bias: config.boolean("attention_bias", true),
    windows: layerWindows(config, types),
    rope: ropeParameters(config, { headDim: shared.head_dim, defaultTheta: 150_000 }),
  };
  return { config: c, build: (g) => build(g, c) };
}

function build(g: Graph, c: GptOssConfig): Tensor {
  const rope = blocks.ropeTable(g, c.rope);
  const bias = c.attention_bias;
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, layer, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention: (x) =>
        blocks.attend(g, c, blocks.qkvProjection(g, c, x, { bias }), {
          rope,
          slidingWindow: c.windows[layer] ?? 0,
          sinks: blocks.vector(g, "sinks", c.num_attention_heads),
        }),
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size, { bias }),
      mlp: (x) => expertMlp(g, c, x),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}

function expertMlp(g: Graph, c: GptOssConfig, x: Tensor): Tensor {
  return mixture(g, c, x, {
    router: "router",
    routerBias: true,
    // The softmax over the chosen logits, which is that over all of them, divided by its sum over the chosen.
    routing: { scoring: "softmax", normalize: true },
    weights: c.stacked_experts
      ? stackedExperts(g, c)
      : g.scope("experts", () => transposedExperts(g, c)),
    activation: "clampedSwiglu",
  });
}

/** Matrices as `[experts, outputs, inputs]`, those of gate and up apart. */
function stackedExperts(g: Graph, c: GptOssConfig): ExpertWeights {
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

/** Matrices as `[experts, inputs, outputs]`, the outputs of gate and up in turns. */
function transposedExperts(g: Graph, c: GptOssConfig): ExpertWeights {
  const [experts, hidden, width] = [c.num_experts, c.hidden_size, c.intermediate_size];
  const part = (name: string, shape: number[], rows: number, strides: PartStrides): WeightPart => {
    return { tensor: `model.${g.path(name)}`, shape, rowStart: 0, rows, strides };
  };
  const fused = (turn: 0 | 1): WeightPart[] =>
    Array.from({ length: experts }, (_, e) => {
      const first = e * hidden * 2 * width + turn;
      const strides = { first, row: 2, col: 2 * width, cols: hidden };
      return part("gate_up_proj", [experts, hidden, 2 * width], width, strides);
    });
  const down = Array.from({ length: experts }, (_, e) => {
    const strides = { first: e * width * hidden, row: 1, col: hidden, cols: width };
    return part("down_proj", [experts, width, hidden], hidden, strides);
  });
  const fusedBias = (turn: 0 | 1): WeightPart[] =>
    biasParts(g, "gate_up_proj_bias", [experts, 2 * width], [turn, 2]);
  return {
    gate: g.matrix("gate_proj", fused(0)),
    up: g.matrix("up_proj", fused(1)),
    down: g.matrix("down_proj", down),
    biases: {
      gate: g.vector("gate_proj_bias", fusedBias(0)),
      up: g.vector("up_proj_bias", fusedBias(1)),
      down: g.vector("down_proj_bias", biasParts(g, "down_proj_bias", [experts, hidden])),
    },
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
  return [{ tensor: `model.${g.path(name)}`, shape, rowStart: 0, rows: 1, strides }];
}
