import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, slidingWindow, type DecoderConfig } from "./fields.js";
import type { Family } from "./model-definition.js";

interface MistralConfig extends DecoderConfig {
  /** Tokens, 0: none (as in all releases after 7B v0.1). */
  readonly sliding_window: number;
  readonly rope: RopeParameters;
  /** Whether queries and keys hold the pairs of the rotary embedding as neighbours. */
  readonly rope_interleave: boolean;
}

/** Mistral 7B and its successors (Jiang et al. 2023, arXiv:2310.06825): Llama with a sliding window in all layers. */
export function mistral(config: ConfigReader): Family {
  const shared = decoderConfig(config);
  const c: MistralConfig = {
    ...shared,
    sliding_window: slidingWindow(config, 4096),
    rope: ropeParameters(config, { headDim: shared.head_dim }),
    rope_interleave: config.boolean("rope_interleave", false),
  };
  return { config: c, build: (g) => build(g, c) };
}

function build(g: Graph, c: MistralConfig): Tensor {
  const options = {
    rope: blocks.ropeTable(g, c.rope),
    interleaved: c.rope_interleave,
    slidingWindow: c.sliding_window,
  };
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, _, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention: (x) =>
        blocks.attend(g, c, blocks.qkvProjection(g, c, x, { bias: false }), options),
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size),
      mlp: (x) => blocks.gatedMlp(g, c, x),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}
