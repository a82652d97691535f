import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, PagodaError } from "../errors.js";

/** A config.json is a few KB; anything above this is refused unread. */
const maxConfigBytes = 16 * 2 ** 20;

export interface IntegerOptions {
  readonly min?: number;
  readonly max?: number;
  /** Used when the field is absent; without it an absent field is an error. */
  readonly default?: number;
}

export interface NumberOptions extends IntegerOptions {
  /** The value must be above this. */
  readonly exclusiveMin?: number;
}

/**
 * Typed access to a parsed JSON object. Every failure is ERR_CONFIG_INVALID and names the field by
 * its dotted path. Only own properties count, so `__proto__` or `constructor` are never found.
 */
export class ConfigReader {
  /** The file that errors name. */
  readonly file: string;
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #prefix: string;

  constructor(raw: unknown, file: string, prefix = "") {
    this.file = file;
    this.#prefix = prefix;
    if (!isObject(raw)) throw this.error(undefined, "a JSON object", raw);
    this.#fields = raw;
  }

  /** Dotted path of this object inside the file, with a dot at its end; empty at the root. */
  get path(): string {
    return this.#prefix;
  }

  /** Whether the field is there, even if null. */
  has(field: string): boolean {
    return Object.hasOwn(this.#fields, field);
  }

  /** Names of the fields that are there. */
  fields(): string[] {
    return Object.keys(this.#fields);
  }

  /** The value as parsed; undefined when absent. */
  raw(field: string): unknown {
    return this.has(field) ? this.#fields[field] : undefined;
  }

  /** A safe integer; `min` and `max` are inclusive. */
  integer(field: string, options: IntegerOptions = {}): number {
    const value = this.raw(field) ?? options.default;
    if (!Number.isSafeInteger(value) || !inRange(value as number, options)) {
      throw this.error(field, `an integer${rangeText(options)}`, this.raw(field));
    }
    return value as number;
  }

  /** As {@link integer}, but undefined when the field is absent or null. */
  optionalInteger(
    field: string,
    options: Omit<IntegerOptions, "default"> = {},
  ): number | undefined {
    return this.raw(field) == null ? undefined : this.integer(field, options);
  }

  /** A finite number; `min` and `max` are inclusive. */
  number(field: string, options: NumberOptions = {}): number {
    const value = this.raw(field) ?? options.default;
    if (!Number.isFinite(value) || !inRange(value as number, options)) {
      throw this.error(field, `a finite number${rangeText(options)}`, this.raw(field));
    }
    return value as number;
  }

  /** As {@link number}, but undefined when the field is absent or null. */
  optionalNumber(field: string, options: Omit<NumberOptions, "default"> = {}): number | undefined {
    return this.raw(field) == null ? undefined : this.number(field, options);
  }

  boolean(field: string, fallback?: boolean): boolean {
    const value = this.raw(field) ?? fallback;
    if (typeof value !== "boolean") throw this.error(field, "a boolean", this.raw(field));
    return value;
  }

  string(field: string, fallback?: string): string {
    const value = this.raw(field) ?? fallback;
    if (typeof value !== "string") throw this.error(field, "a string", this.raw(field));
    return value;
  }

  /** A list of strings; empty when the field is absent or null. */
  strings(field: string): string[] {
    const value = this.raw(field) ?? [];
    if (!Array.isArray(value) || !value.every((item) => typeof item === "string")) {
      throw this.error(field, "a list of strings", value);
    }
    return value;
  }

  /** A list of finite numbers; undefined when the field is absent or null. */
  numbers(field: string): number[] | undefined {
    const value = this.raw(field);
    if (value == null) return undefined;
    if (!Array.isArray(value) || !value.every((item) => Number.isFinite(item))) {
      throw this.error(field, "a list of finite numbers", value);
    }
    return value;
  }

  /** A reader of a nested object; undefined when the field is absent or null. */
  object(field: string): ConfigReader | undefined {
    const value = this.raw(field);
    if (value == null) return undefined;
    if (!isObject(value)) throw this.error(field, "an object", value);
    return new ConfigReader(value, this.file, `${this.#prefix}${field}.`);
  }

  /** The error for a field of this object, for checks that the methods above cannot express. */
  error(field: string | undefined, expected: string, received: unknown): PagodaError {
    const path = field === undefined ? this.#prefix.slice(0, -1) : `${this.#prefix}${field}`;
    const where = path === "" ? "the whole file" : `\`${path}\``;
    const what = received === undefined ? "nothing" : describe(received);
    return new PagodaError(
      "ERR_CONFIG_INVALID",
      `${this.file}: Expected ${expected} for ${where} but received ${what}`,
      { details: { file: this.file, field: path } },
    );
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function inRange(value: number, options: NumberOptions): boolean {
  const { min = -Infinity, max = Infinity, exclusiveMin = -Infinity } = options;
  return value >= min && value <= max && value > exclusiveMin;
}

/** For messages, e.g. " in [1, 8]" or " above 0". */
function rangeText({ min, max, exclusiveMin }: NumberOptions): string {
  if (exclusiveMin !== undefined) {
    return max === undefined ? ` above ${exclusiveMin}` : ` in (${exclusiveMin}, ${max}]`;
  }
  if (min !== undefined && max !== undefined) return ` in [${min}, ${max}]`;
  if (min !== undefined) return ` of at least ${min}`;
  return max === undefined ? "" : ` of at most ${max}`;
}

/**
 * Reads config.json.
 * @throws ERR_MODEL_NOT_FOUND without the file, ERR_CONFIG_INVALID when it is not a JSON object.
 */
export async function readConfig(directory: string): Promise<ConfigReader> {
  const config = await readOptionalConfig(join(directory, "config.json"));
  if (config !== undefined) return config;
  throw new PagodaError("ERR_MODEL_NOT_FOUND", `${directory} has no config.json`, {
    details: { path: join(directory, "config.json") },
  });
}

/** Reads any small JSON object; undefined when there is no such file. */
export async function readOptionalConfig(path: string): Promise<ConfigReader | undefined> {
  const text = await readSmallFile(path, maxConfigBytes);
  if (text === undefined) return undefined;
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    const message = `${path}: Expected JSON but ${(cause as Error).message}`;
    throw new PagodaError("ERR_CONFIG_INVALID", message, { cause, details: { file: path } });
  }
  return new ConfigReader(raw, path);
}

async function readSmallFile(path: string, maxBytes: number): Promise<string | undefined> {
  try {
    const { size } = await stat(path);
    if (size <= maxBytes) return await readFile(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    const message = `${path} cannot be read: ${(cause as Error).message}`;
    throw new PagodaError("ERR_MODEL_NOT_FOUND", message, { cause, details: { path } });
  }
  throw new PagodaError("ERR_CONFIG_INVALID", `${path} is larger than ${maxBytes} bytes`, {
    details: { file: path },
  });
}

/** Architecture names of configs that carry only a `model_type`. */
const architectureOfModelType: ReadonlyMap<string, string> = new Map([
  ["llama", "LlamaForCausalLM"],
  ["mistral", "MistralForCausalLM"],
  ["mixtral", "MixtralForCausalLM"],
  ["qwen2", "Qwen2ForCausalLM"],
  ["qwen2_moe", "Qwen2MoeForCausalLM"],
  ["qwen3", "Qwen3ForCausalLM"],
  ["qwen3_moe", "Qwen3MoeForCausalLM"],
  ["gemma", "GemmaForCausalLM"],
  ["gemma2", "Gemma2ForCausalLM"],
  ["gemma3_text", "Gemma3ForCausalLM"],
  ["phi3", "Phi3ForCausalLM"],
  ["gpt2", "GPT2LMHeadModel"],
  ["gpt_oss", "GptOssForCausalLM"],
  ["deepseek_v2", "DeepseekV2ForCausalLM"],
  ["deepseek_v3", "DeepseekV3ForCausalLM"],
]);

/**
 * The Hugging Face architecture name: `architectures[0]`, else the usual one of `model_type`.
 * @throws ERR_MODEL_UNSUPPORTED for multimodal wrappers and unknown model types.
 */
export function architecture(config: ConfigReader): string {
  const name = config.strings("architectures")[0];
  const modelType = config.string("model_type", "");
  if (config.object("text_config") !== undefined) {
    throw new PagodaError(
      "ERR_MODEL_UNSUPPORTED",
      `${config.file}: multimodal models (with a \`text_config\`) are not supported; ` +
        "use a text-only checkpoint",
      { details: { architecture: name ?? modelType } },
    );
  }
  const found = name ?? architectureOfModelType.get(modelType);
  if (found !== undefined) return found;
  if (modelType === "") throw config.error("architectures", "a list of names", undefined);
  throw new PagodaError("ERR_MODEL_UNSUPPORTED", `Unknown model_type ${describe(modelType)}`, {
    details: { modelType, supported: [...architectureOfModelType.keys()] },
  });
}
