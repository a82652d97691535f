import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, type DecoderConfig } from "./fields.js";
import type { Family } from "./model-definition.js";

interface LlamaConfig extends DecoderConfig {
  /** Biases of all four attention projections. */
  readonly attention_bias: boolean;
  readonly mlp_bias: boolean;
  readonly rope: RopeParameters;
  /** Whether queries and keys hold the pairs of the rotary embedding as neighbours. */
  readonly rope_interleave: boolean;
}

/** Llama 2, 3 and their many relatives (Touvron et al. 2023, arXiv:2302.13971). */
export function llama(config: ConfigReader): Family {
  const shared = decoderConfig(config);
  const c: LlamaConfig = {
    ...shared,
    attention_bias: config.boolean("attention_bias", false),
    mlp_bias: config.boolean("mlp_bias", false),
    rope: ropeParameters(config, { headDim: shared.head_dim }),
    rope_interleave: config.boolean("rope_interleave", false),
  };
  return { config: c, build: (g) => build(g, c) };
}

function build(g: Graph, c: LlamaConfig): Tensor {
  const options = { rope: blocks.ropeTable(g, c.rope), interleaved: c.rope_interleave };
  const bias = c.attention_bias;
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, _, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention: (x) => blocks.attend(g, c, blocks.qkvProjection(g, c, x, { bias }), options),
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size, { bias }),
      mlp: (x) => blocks.gatedMlp(g, c, x, { bias: c.mlp_bias }),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}
