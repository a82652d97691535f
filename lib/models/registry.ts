import { describe, PagodaError } from "../errors.js";
import { architecture as architectureOf, type ConfigReader } from "../loading/config.js";
import { deepseekV2, deepseekV3 } from "./deepseek.js";
import { unsupported } from "./fields.js";
import { gemma3 } from "./gemma3.js";
import { gptOss } from "./gpt-oss.js";
import { llama } from "./llama.js";
import { mistral } from "./mistral.js";
import { mixtral } from "./mixtral.js";
import type { Family, ModelDefinition } from "./model-definition.js";
import { phi3 } from "./phi3.js";
import { qwen2 } from "./qwen2.js";
import { qwen3Moe } from "./qwen3-moe.js";
import { qwen3 } from "./qwen3.js";

const families: ReadonlyMap<string, (config: ConfigReader) => Family> = new Map([
  ["LlamaForCausalLM", llama],
  ["MistralForCausalLM", mistral],
  ["Qwen2ForCausalLM", qwen2],
  ["Qwen3ForCausalLM", qwen3],
  ["Phi3ForCausalLM", phi3],
  ["Gemma3ForCausalLM", gemma3],
  ["MixtralForCausalLM", mixtral],
  ["Qwen3MoeForCausalLM", qwen3Moe],
  ["GptOssForCausalLM", gptOss],
  ["DeepseekV2ForCausalLM", deepseekV2],
  ["DeepseekV3ForCausalLM", deepseekV3],
]);

const expertFields = ["num_experts", "num_local_experts"];

/** Of {@link families}, those with experts, and the fields by which they read their number. */
const mixtures: ReadonlyMap<string, readonly string[]> = new Map([
  ["MixtralForCausalLM", expertFields],
  ["Qwen3MoeForCausalLM", expertFields],
  ["GptOssForCausalLM", expertFields],
  ["DeepseekV2ForCausalLM", ["n_routed_experts"]],
  ["DeepseekV3ForCausalLM", ["n_routed_experts"]],
]);

/** Hugging Face names of the architectures that can be run. */
export const architectures: readonly string[] = [...families.keys()];

/**
 * Reads the config of a model and checks it as a whole, before anything is allocated.
 * @throws PagodaError ERR_MODEL_UNSUPPORTED (architecture or feature, `details.supported` lists what is known),
 *   ERR_CONFIG_INVALID (`details.field` names the field)
 */
export function defineModel(config: ConfigReader): ModelDefinition {
  const architecture = architectureOf(config);
  const family = families.get(architecture);
  if (family === undefined) throw unknownArchitecture(config, architecture);
  refuseUnsupported(config, mixtures.get(architecture) ?? []);
  const { config: c, build } = family(config);
  return {
    architecture,
    vocabSize: c.vocab_size,
    hiddenSize: c.hidden_size,
    numLayers: c.num_hidden_layers,
    maxPositionEmbeddings: c.max_position_embeddings,
    build,
  };
}

function unknownArchitecture(config: ConfigReader, architecture: string): PagodaError {
  const message = `${config.file}: the architecture ${describe(architecture)} is not supported`;
  return new PagodaError(
    "ERR_MODEL_UNSUPPORTED",
    `${message}; supported: ${architectures.join(", ")}`,
    {
      details: { architecture, supported: architectures },
    },
  );
}

/** Fields that change what a model computes, unless its family reads them. */
const unsupportedFields: Readonly<Record<string, string>> = {
  num_experts: "a mixture of experts",
  num_local_experts: "a mixture of experts",
  n_routed_experts: "a mixture of experts of this kind",
  is_encoder_decoder: "an encoder",
  add_cross_attention: "cross attention",
};

function refuseUnsupported(config: ConfigReader, known: readonly string[]): void {
  for (const [field, feature] of Object.entries(unsupportedFields)) {
    if (config.raw(field) && !known.includes(field)) {
      throw unsupported(config, `${feature} (\`${field}\`)`);
    }
  }
}
