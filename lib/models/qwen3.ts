import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, type DecoderConfig } from "./fields.js";
import { qwenWindows } from "./qwen2.js";
import type { Family } from "./model-definition.js";

export interface Qwen3Config extends DecoderConfig {
  /** Biases of all four attention projections. */
  readonly attention_bias: boolean;
  /** Window of each layer in tokens, 0: none. */
  readonly windows: readonly number[];
  readonly rope: RopeParameters;
}

/** Qwen3 (Yang et al. 2025, arXiv:2505.09388): queries and keys are normed a head at a time before they are rotated. */
export function qwen3(config: ConfigReader): Family {
  const shared = decoderConfig(config, { head_dim: 128 });
  const c: Qwen3Config = {
    ...shared,
    attention_bias: config.boolean("attention_bias", false),
    windows: qwenWindows(config, shared),
    rope: ropeParameters(config, { headDim: shared.head_dim }),
  };
  return { config: c, build: (g) => buildQwen3(g, c, (x) => blocks.gatedMlp(g, c, x)) };
}

/** @param mlp the feed-forward part of a layer */
export function buildQwen3(
  g: Graph,
  c: Qwen3Config,
  mlp: (x: Tensor, layer: number) => Tensor,
): Tensor {
  const rope = blocks.ropeTable(g, c.rope);
  const bias = c.attention_bias;
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, layer, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention(x) {
        const [query, key, value] = blocks.qkvProjection(g, c, x, { bias });
        const q = blocks.headNorm(g, c, query, "q_norm");
        const k = blocks.headNorm(g, c, key, "k_norm");
        return blocks.attend(g, c, [q, k, value], { rope, slidingWindow: c.windows[layer] ?? 0 });
      },
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size, { bias }),
      mlp: (x) => mlp(x, layer),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}
