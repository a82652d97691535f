import { join } from "node:path";
import { ConfigReader, readOptionalConfig } from "./config.js";
import { withoutUndefined } from "./without-undefined.js";

/** What generation_config.json says; a field that it leaves out is undefined. */
export interface GenerationDefaults {
  /** Any of these ends a sequence; empty when neither file names one. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId?: number;
  readonly padTokenId?: number;
  readonly doSample?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
}

/** Token ids are int32 in every step. */
const tokenId = { min: 0, max: 2 ** 31 - 1 };

/**
 * Reads generation_config.json when there is one; token ids that it lacks come from config.json.
 *
 * @throws ERR_CONFIG_INVALID naming the field.
 */
export async function readGenerationConfig(
  directory: string,
  config: ConfigReader,
): Promise<GenerationDefaults> {
  const path = join(directory, "generation_config.json");
  const own = (await readOptionalConfig(path)) ?? new ConfigReader({}, path);
  return generationDefaults(own, config);
}

/** As {@link readGenerationConfig}, of what was read. */
export function generationDefaults(own: ConfigReader, config: ConfigReader): GenerationDefaults {
  const eosTokenIds = tokenIds(own, "eos_token_id") ?? tokenIds(config, "eos_token_id") ?? [];
  return withoutUndefined({
    eosTokenIds,
    bosTokenId: (tokenIds(own, "bos_token_id") ?? tokenIds(config, "bos_token_id"))?.[0],
    padTokenId: (tokenIds(own, "pad_token_id") ?? tokenIds(config, "pad_token_id"))?.[0],
    doSample: own.raw("do_sample") == null ? undefined : own.boolean("do_sample"),
    temperature: own.optionalNumber("temperature", { min: 0 }),
    topK: own.optionalInteger("top_k", { min: 0 }),
    topP: own.optionalNumber("top_p", { min: 0, max: 1 }),
    minP: own.optionalNumber("min_p", { min: 0, max: 1 }),
    repetitionPenalty: own.optionalNumber("repetition_penalty", { exclusiveMin: 0 }),
  });
}

/** One id or a list of them; undefined when absent, null or an empty list. */
function tokenIds(reader: ConfigReader, field: string): number[] | undefined {
  const value = reader.raw(field);
  if (value == null) return undefined;
  if (!Array.isArray(value)) return [reader.integer(field, tokenId)];
  for (const id of value) {
    if (!Number.isInteger(id) || id < tokenId.min || id > tokenId.max) {
      throw reader.error(field, "a token id or a list of them", id);
    }
  }
  return value.length === 0 ? undefined : [...new Set(value as number[])];
}
