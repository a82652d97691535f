import { describe, PagodaError } from "../errors.js";
import type { ConfigReader } from "./config.js";

/** How the linears of a Hugging Face directory are quantised: x = scale * (code - zero) in groups of columns. */
export interface QuantizationScheme {
  /** `quant_method` of the config. */
  readonly method: "gptq" | "awq" | "compressed-tensors";
  readonly bits: 4 | 8;
  /** Columns that share a scale; undefined: all of a row. */
  readonly groupSize: number | undefined;
  /** All zero points are 2^(bits - 1). */
  readonly symmetric: boolean;
  /** Codes are int8 each instead of being packed in words of 32 bits. */
  readonly isWide: boolean;
  /** Zero points are stored less this. */
  readonly zeroShift: 0 | 1;
  /** Whether a tensor must say which group each column is in. */
  readonly hasColumnGroups: boolean;
}

/** Experts of gpt-oss in blocks of FP4. */
export interface Mxfp4Scheme {
  readonly method: "mxfp4";
}

/**
 * Reads `quantization_config`; undefined without it. Which linears are quantised shows in the tensors, so that lists of
 * exceptions are not read.
 * @throws ERR_CONFIG_INVALID, ERR_MODEL_UNSUPPORTED for a method, a format or a setting that is not supported
 */
export function readQuantization(
  config: ConfigReader,
): QuantizationScheme | Mxfp4Scheme | undefined {
  const fields = config.object("quantization_config");
  if (fields === undefined) return undefined;
  const method = fields.string("quant_method");
  if (method === "gptq") return readGptq(fields);
  if (method === "awq") return readAwq(fields);
  if (method === "compressed-tensors") return readCompressedTensors(fields);
  if (method === "mxfp4") return { method };
  const supported = ["gptq", "awq", "compressed-tensors", "mxfp4"];
  throw unsupported(fields, "quant_method", method, supported);
}

function readGptq(fields: ConfigReader): QuantizationScheme {
  const format = fields.string("checkpoint_format", "gptq");
  oneOf(fields, "checkpoint_format", format, ["gptq", "gptq_v2"]);
  const bits = readBits(fields, "bits");
  return {
    method: "gptq",
    bits,
    groupSize: readGroupSize(fields),
    symmetric: fields.boolean("sym", true),
    isWide: false,
    zeroShift: format === "gptq" ? 1 : 0,
    hasColumnGroups: fields.boolean("desc_act", false),
  };
}

function readAwq(fields: ConfigReader): QuantizationScheme {
  oneOf(fields, "version", fields.string("version", "gemm").toLowerCase(), ["gemm"]);
  oneOf(fields, "bits", fields.integer("bits"), [4]);
  return {
    method: "awq",
    bits: 4,
    groupSize: readGroupSize(fields),
    symmetric: !fields.boolean("zero_point", true),
    isWide: false,
    zeroShift: 0,
    hasColumnGroups: false,
  };
}

/** One group of modules, with one scheme. */
function readCompressedTensors(fields: ConfigReader): QuantizationScheme {
  const format = fields.string("format");
  oneOf(fields, "format", format, ["pack-quantized", "int-quantized", "naive-quantized"]);
  const groups = fields.object("config_groups");
  const [name, ...others] = groups?.fields() ?? [];
  const group = name === undefined ? undefined : groups?.object(name);
  const weights = group?.object("weights");
  if (weights === undefined || others.length > 0) {
    throw fields.error("config_groups", "one group with `weights`", fields.raw("config_groups"));
  }
  oneOf(weights, "type", weights.string("type", "int"), ["int"]);
  const activations = group?.object("input_activations");
  if (activations !== undefined) {
    oneOf(activations, "type", activations.string("type", "int"), ["int"]);
    oneOf(activations, "dynamic", activations.boolean("dynamic", false), [true]);
  }
  const isWide = format !== "pack-quantized";
  const bits = readBits(weights, "num_bits");
  if (isWide) oneOf(weights, "num_bits", bits, [8]);
  const strategy = weights.string("strategy", "tensor");
  oneOf(weights, "strategy", strategy, ["tensor", "channel", "group"]);
  return {
    method: "compressed-tensors",
    bits,
    groupSize: strategy === "group" ? readGroupSize(weights) : undefined,
    symmetric: weights.boolean("symmetric", true),
    isWide,
    zeroShift: 0,
    hasColumnGroups: readsColumnGroups(weights),
  };
}

/** `actorder` is a name, or a boolean in older files; "weight" and "static" order columns without changing their groups. */
function readsColumnGroups(weights: ConfigReader): boolean {
  const order = weights.raw("actorder");
  return order === true || (typeof order === "string" && ["group", "dynamic"].includes(order));
}

function readBits(fields: ConfigReader, field: string): 4 | 8 {
  const bits = fields.integer(field);
  oneOf(fields, field, bits, [4, 8]);
  return bits as 4 | 8;
}

function readGroupSize(fields: ConfigReader): number | undefined {
  const size = fields.integer("group_size");
  if (size === -1) return undefined;
  if (size < 1) throw fields.error("group_size", "-1 or a positive integer", size);
  if (size % 32 === 0) return size;
  throw unsupported(fields, "group_size", size, ["-1", "multiples of 32"]);
}

function oneOf<T>(fields: ConfigReader, field: string, value: T, supported: readonly T[]): void {
  if (!supported.includes(value)) throw unsupported(fields, field, value, supported.map(String));
}

function unsupported(
  { file, path }: ConfigReader,
  field: string,
  value: unknown,
  supported: readonly string[],
): PagodaError {
  const name = `${path}${field}`;
  const message = `${file}: \`${name}\` ${describe(value)} is not supported; supported: `;
  return new PagodaError("ERR_MODEL_UNSUPPORTED", message + supported.join(", "), {
    details: { file, field: name, value, supported },
  });
}
