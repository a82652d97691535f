import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, layerWindows, readLayerTypes, unsupported } from "./fields.js";
import { gptOssExperts, type GptOssExpertsConfig } from "./gpt-oss-experts.js";
import { mixture, mixtureConfig } from "./mixture.js";
import type { Family } from "./model-definition.js";

interface GptOssConfig extends GptOssExpertsConfig {
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
    has_expert_rows: config.object("quantization_config")?.raw("quant_method") === "mxfp4",
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
    weights: gptOssExperts(g, c),
    activation: "clampedSwiglu",
  });
}
