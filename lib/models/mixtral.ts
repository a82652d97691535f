import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, slidingWindow, unsupported, type DecoderConfig } from "./fields.js";
import { expertWeights, mixture, mixtureConfig, type MixtureConfig } from "./mixture.js";
import type { Family } from "./model-definition.js";

interface MixtralConfig extends DecoderConfig, MixtureConfig {
  /** Tokens, 0: none. */
  readonly sliding_window: number;
  readonly rope: RopeParameters;
  /** Whether queries and keys hold the pairs of the rotary embedding as neighbours. */
  readonly rope_interleave: boolean;
}

/** Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with experts, of which each token asks two. */
export function mixtral(config: ConfigReader): Family {
  if (config.boolean("attention_bias", false)) throw unsupported(config, "`attention_bias`");
  const shared = decoderConfig(config, { rms_norm_eps: 1e-5 });
  const c: MixtralConfig = {
    ...shared,
    ...mixtureConfig(config, { experts: 8, perToken: 2 }),
    sliding_window: slidingWindow(config, 0),
    rope: ropeParameters(config, { headDim: shared.head_dim, defaultTheta: 1e6 }),
    rope_interleave: config.boolean("rope_interleave", false),
  };
  return { config: c, build: (g) => build(g, c) };
}

function build(g: Graph, c: MixtralConfig): Tensor {
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
      mlp: (x) => sparseMlp(g, c, x),
      mlpScope: "block_sparse_moe",
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}

function sparseMlp(g: Graph, c: MixtralConfig, x: Tensor): Tensor {
  const names = { gate: "w1", up: "w3", down: "w2" };
  const shape = { width: c.intermediate_size, hidden: c.hidden_size };
  return mixture(g, c, x, {
    router: "gate",
    routing: { scoring: "softmax", normalize: true },
    weights: expertWeights(g, c, names, shape),
    activation: c.activation,
  });
}
