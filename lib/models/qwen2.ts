import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, layerWindows, readLayerTypes, type DecoderConfig } from "./fields.js";
import type { Family } from "./model-definition.js";

interface Qwen2Config extends DecoderConfig {
  /** Window of each layer in tokens, 0: none. */
  readonly windows: readonly number[];
  readonly rope: RopeParameters;
}

/** Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671): Llama with biases of queries, keys and values. */
export function qwen2(config: ConfigReader): Family {
  const shared = decoderConfig(config);
  const c: Qwen2Config = {
    ...shared,
    windows: qwenWindows(config, shared),
    rope: ropeParameters(config, { headDim: shared.head_dim }),
  };
  return { config: c, build: (g) => build(g, c) };
}

/**
 * The window of each layer: by `layer_types`, else layers from `max_window_layers` on, if `use_sliding_window`. Most
 * checkpoints set a `sliding_window` that is not used.
 */
export function qwenWindows(config: ConfigReader, c: DecoderConfig): number[] {
  const usesWindow = config.boolean("use_sliding_window", false);
  const firstWindowed = config.integer("max_window_layers", { min: 0, default: 28 });
  const types = readLayerTypes(config, c.num_hidden_layers, (layer) =>
    usesWindow && layer >= firstWindowed ? "sliding_attention" : "full_attention",
  );
  return layerWindows(config, types);
}

function build(g: Graph, c: Qwen2Config): Tensor {
  const rope = blocks.ropeTable(g, c.rope);
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, layer, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention(x) {
        const options = { rope, slidingWindow: c.windows[layer] ?? 0 };
        return blocks.attend(g, c, blocks.qkvProjection(g, c, x, { bias: true }), options);
      },
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size),
      mlp: (x) => blocks.gatedMlp(g, c, x),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}
