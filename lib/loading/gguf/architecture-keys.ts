import type { PagodaError } from "../../errors.js";
import { ConfigReader } from "../config.js";
import type { GgufHeader } from "./header.js";
import type { MetadataValue } from "./metadata.js";
import { unsupportedInFile } from "./unsupported.js";

/** The metadata of the file's architecture, e.g. `llama.block_count`. */
export class ArchitectureKeys {
  readonly name: string;
  readonly #header: GgufHeader;

  constructor(header: GgufHeader) {
    this.name = header.metadata.get("general.architecture") as string;
    this.#header = header;
  }

  get(key: string): MetadataValue | undefined {
    return this.#header.metadata.get(`${this.name}.${key}`);
  }

  /** For what config.json may leave out, but these files may not. @throws ERR_CONFIG_INVALID */
  required(key: string): MetadataValue {
    const value = this.get(key);
    if (value !== undefined) return value;
    const reader = new ConfigReader({}, this.#header.file.path);
    throw reader.error(`${this.name}.${key}`, "a value", undefined);
  }

  /** The number, or the one number that a list has for every layer. */
  uniform(key: string): MetadataValue | undefined {
    const value = this.get(key);
    if (!Array.isArray(value)) return value;
    if (value.length > 0 && value.every((item) => item === value[0])) return value[0] as number;
    throw this.unsupported(`different values of ${key} in different layers`);
  }

  number(key: string, fallback: number): number {
    const value = this.get(key);
    return typeof value === "number" ? value : fallback;
  }

  /** Whether the file has latent attention. */
  get isLatent(): boolean {
    return this.get("attention.kv_lora_rank") !== undefined;
  }

  /** Dimensions of a head that rope may rotate; NaN where the file does not say. */
  headDim(): number {
    if (this.isLatent) return this.number("rope.dimension_count", NaN);
    const heads = this.uniform("attention.head_count");
    const even = this.number("embedding_length", NaN) / (typeof heads === "number" ? heads : NaN);
    return this.number("attention.key_length", even);
  }

  /** @throws ERR_MODEL_UNSUPPORTED for a value that the families here do not have; 0 and absence mean none. */
  expect(key: string, values: readonly MetadataValue[]): void {
    const value = this.get(key);
    if (value === undefined || value === 0 || values.includes(value)) return;
    throw this.unsupported(`\`${this.name}.${key}\` of ${String(value)}`);
  }

  unsupported(feature: string): PagodaError {
    return unsupportedInFile(this.#header.file.path, feature);
  }
}
