import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import { decoderConfig, slidingWindow, unsupported, type DecoderConfig } from "./fields.js";
import type { Family } from "./model-definition.js";

interface Phi3Config extends DecoderConfig {
  /** Tokens, 0: none. */
  readonly sliding_window: number;
  /** May rotate only part of each head (`partial_rotary_factor`). */
  readonly rope: RopeParameters;
}

/** Phi-3 and Phi-4 (Abdin et al. 2024, arXiv:2404.14219): checkpoints hold qkv and gate, up fused already. */
export function phi3(config: ConfigReader): Family {
  const shared = decoderConfig(config, { rms_norm_eps: 1e-5 });
  const rope = ropeParameters(config, { headDim: shared.head_dim });
  if (rope.type !== "default" && rope.type !== "longrope")
    throw unsupported(config, `the rope type "${rope.type}" of Phi-3`, ["default", "longrope"]);
  const c: Phi3Config = { ...shared, sliding_window: slidingWindow(config, 0), rope };
  return { config: c, build: (g) => build(g, c) };
}

function build(g: Graph, c: Phi3Config): Tensor {
  const options = { rope: blocks.ropeTable(g, c.rope), slidingWindow: c.sliding_window };
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, _, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention(x) {
        const widths = blocks.qkvWidths(c);
        const qkv = blocks.projection(g, x, "qkv_proj", widths[0] + widths[1] + widths[2]);
        return blocks.attend(g, c, g.split(qkv, widths), options);
      },
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size),
      mlp: (x) => fusedMlp(g, c, x),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}

function fusedMlp(g: Graph, c: Phi3Config, x: Tensor): Tensor {
  const gateUp = blocks.projection(g, x, "gate_up_proj", 2 * c.intermediate_size);
  const [gate, up] = g.split(gateUp, [c.intermediate_size, c.intermediate_size]);
  return blocks.projection(
    g,
    g.gatedActivation(gate, up, c.activation),
    "down_proj",
    c.hidden_size,
  );
}
