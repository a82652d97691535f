import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, slidingWindow } from "./fields.js";
import { expertWeights, mixture, mixtureConfig, type MixtureConfig } from "./mixture.js";
import type { Family } from "./model-definition.js";
import { buildQwen3, type Qwen3Config } from "./qwen3.js";

interface Qwen3MoeConfig extends Qwen3Config, MixtureConfig {
  readonly moe_intermediate_size: number;
  /** Whether the weights of a token's experts add up to 1. */
  readonly norm_topk_prob: boolean;
  /** By layer, whether it has experts. */
  readonly isSparse: readonly boolean[];
}

/** Qwen3 with experts (Yang et al. 2025, arXiv:2505.09388), in all layers or in some. */
export function qwen3Moe(config: ConfigReader): Family {
  const shared = decoderConfig(config);
  const layers = Array.from({ length: shared.num_hidden_layers }, (_, layer) => layer);
  const window = config.boolean("use_sliding_window", false) ? slidingWindow(config, 4096) : 0;
  const dense = new Set(config.numbers("mlp_only_layers"));
  const step = config.integer("decoder_sparse_step", { min: 1, default: 1 });
  const c: Qwen3MoeConfig = {
    ...shared,
    ...mixtureConfig(config, { experts: 128, perToken: 8 }),
    attention_bias: config.boolean("attention_bias", false),
    windows: layers.map(() => window),
    rope: ropeParameters(config, { headDim: shared.head_dim }),
    moe_intermediate_size: config.integer("moe_intermediate_size", {
      min: 1,
      max: 2 ** 20,
      default: 768,
    }),
    norm_topk_prob: config.boolean("norm_topk_prob", false),
    isSparse: layers.map((layer) => !dense.has(layer) && (layer + 1) % step === 0),
  };
  return { config: c, build: (g) => buildQwen3(g, c, (x, layer) => mlp(g, c, x, layer)) };
}

function mlp(g: Graph, c: Qwen3MoeConfig, x: Tensor, layer: number): Tensor {
  if (c.isSparse[layer] !== true) return blocks.gatedMlp(g, c, x);
  const names = { gate: "gate_proj", up: "up_proj", down: "down_proj" };
  const [width, hidden] = [c.moe_intermediate_size, c.hidden_size];
  return mixture(g, c, x, {
    router: "gate",
    routing: { scoring: "softmax", normalize: c.norm_topk_prob },
    weights: expertWeights(g, c, names, { width, hidden }),
    activation: c.activation,
  });
}
