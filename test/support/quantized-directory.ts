import { readFileSync, mkdirSync, writeFileSync, copyFileSync } from "node:fs";
import { join } from "node:path";

/** How a test quantises the linears of a directory. */
export interface Recipe {
  readonly method: "gptq" | "gptq_v2" | "awq" | "pack-quantized" | "int-quantized";
  readonly bits: 4 | 8;
  /** Columns; undefined: all of a row. */
  readonly groupSize: number | undefined;
  readonly symmetric: boolean;
  readonly scaleDtype: "F16" | "BF16" | "F32";
}

export interface Tensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}
export type Tensors = Map<string, Tensor>;

/** Codes [rows * cols], and scales and zero points [rows * groups]. */
interface Quantized {
  readonly rows: number;
  readonly cols: number;
  readonly groups: number;
  readonly codes: Uint8Array;
  readonly scales: Float64Array;
  readonly zeros: Uint8Array;
}

/** Writes a bf16 directory quantised to `quantized`, and what the numbers then are, in float32, to `plain`. */
export function quantizeDirectory(
  from: string,
  recipe: Recipe,
  { quantized, plain }: { quantized: string; plain: string },
): void {
  const stored: Tensors = new Map();
  const expected: Tensors = new Map();
  for (const [name, tensor] of readTensors(join(from, "model.safetensors"))) {
    const values = bf16Values(tensor.data);
    if (!name.endsWith("_proj.weight")) {
      stored.set(name, tensor);
      expected.set(name, { ...tensor, dtype: "F32", data: bytesOf(values) });
      continue;
    }
    const [rows = 0, cols = 0] = tensor.shape;
    const result = quantize(values, rows, cols, recipe);
    const module = name.slice(0, -".weight".length);
    for (const [suffix, part] of store(result, recipe)) stored.set(`${module}.${suffix}`, part);
    expected.set(name, { ...tensor, dtype: "F32", data: bytesOf(dequantize(result)) });
  }
  const config = JSON.parse(readFileSync(join(from, "config.json"), "utf8")) as object;
  const quantization_config = configOf(recipe);
  writeDirectory(quantized, from, { ...config, quantization_config }, stored);
  writeDirectory(plain, from, config, expected);
}

// ---- quantising

function quantize(values: Float32Array, rows: number, cols: number, recipe: Recipe): Quantized {
  const size = recipe.groupSize ?? cols;
  const groups = cols / size;
  const codes = new Uint8Array(rows * cols);
  const scales = new Float64Array(rows * groups);
  const zeros = new Uint8Array(rows * groups);
  const most = 2 ** recipe.bits - 1;
  for (let group = 0; group < rows * groups; group++) {
    const part = values.subarray(group * size, (group + 1) * size);
    const low = Math.min(0, ...part);
    const high = Math.max(0, ...part);
    const half = 2 ** (recipe.bits - 1);
    const range = recipe.symmetric ? (Math.max(-low, high) * most) / (half - 1) : high - low;
    const scale = roundScale(range / most, recipe.scaleDtype);
    const zero = recipe.symmetric ? half : Math.min(most, Math.max(0, Math.round(-low / scale)));
    for (const [i, value] of part.entries()) {
      const code = Math.round(value / scale) + zero;
      codes[group * size + i] = Math.min(most, Math.max(0, code));
    }
    scales[group] = scale;
    zeros[group] = zero;
  }
  return { rows, cols, groups, codes, scales, zeros };
}

function dequantize({ cols, groups, codes, scales, zeros }: Quantized): Float32Array {
  return Float32Array.from(codes, (code, at) => {
    const group = Math.floor(at / (cols / groups));
    return (code - zeros[group]!) * scales[group]!;
  });
}

/** To the bits of a type; no test has scales so small that they would be subnormal. */
function roundScale(value: number, dtype: Recipe["scaleDtype"]): number {
  const bits = { F16: 10, BF16: 7, F32: 23 }[dtype];
  const unit = 2 ** (Math.floor(Math.log2(value)) - bits);
  return Math.round(value / unit) * unit;
}

// ---- layouts

function store(q: Quantized, recipe: Recipe): Iterable<[string, Tensor]> {
  if (recipe.method === "awq") return storeAwq(q);
  if (recipe.method === "pack-quantized") return storePacked(q, recipe);
  if (recipe.method === "int-quantized") return storeWide(q, recipe);
  return storeGptq(q, recipe);
}

function storeGptq({ rows, cols, groups, codes, scales, zeros }: Quantized, recipe: Recipe) {
  const { bits } = recipe;
  const perWord = 32 / bits;
  const weight = new Uint32Array((rows * cols) / perWord);
  const zero = new Uint32Array((rows * groups) / perWord);
  const scale = new Float64Array(rows * groups);
  // Taken from words, so that a zero point of 0 borrows from the next one.
  const less = recipe.method === "gptq" ? Math.floor(0xffffffff / (2 ** bits - 1)) : 0;
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const at = Math.floor(col / perWord) * rows + row;
      weight[at]! |= codes[row * cols + col]! << (bits * (col % perWord));
    }
    for (let group = 0; group < groups; group++) {
      const at = (group * rows) / perWord + Math.floor(row / perWord);
      zero[at]! |= zeros[row * groups + group]! << (bits * (row % perWord));
      scale[group * rows + row] = scales[row * groups + group]!;
    }
  }
  const order = Int32Array.from({ length: cols }, (_, col) => Math.floor((col * groups) / cols));
  return Object.entries({
    qweight: words([cols / perWord, rows], weight),
    qzeros: words(
      [groups, rows / perWord],
      zero.map((word) => word - less),
    ),
    scales: numbers([groups, rows], scale, recipe.scaleDtype),
    g_idx: { dtype: "I32", shape: [cols], data: bytesOf(order) },
  });
}

function storeAwq({ rows, cols, groups, codes, scales, zeros }: Quantized) {
  const order = [0, 2, 4, 6, 1, 3, 5, 7];
  const pack = (height: number, at: (line: number, row: number) => number): Uint32Array => {
    const packed = new Uint32Array((height * rows) / 8);
    for (let line = 0; line < height; line++) {
      for (let word = 0; word < rows / 8; word++) {
        for (const [k, output] of order.entries()) {
          packed[(line * rows) / 8 + word]! |= at(line, word * 8 + output) << (4 * k);
        }
      }
    }
    return packed;
  };
  const scale = new Float64Array(rows * groups);
  for (let i = 0; i < scale.length; i++) {
    scale[i] = scales[(i % rows) * groups + Math.floor(i / rows)]!;
  }
  const weight = pack(cols, (col, row) => codes[row * cols + col]!);
  const zero = pack(groups, (group, row) => zeros[row * groups + group]!);
  return Object.entries({
    qweight: words([cols, rows / 8], weight),
    qzeros: words([groups, rows / 8], zero),
    scales: numbers([groups, rows], scale, "F16"),
  });
}

function storePacked({ rows, cols, groups, codes, scales, zeros }: Quantized, recipe: Recipe) {
  const { bits, symmetric, scaleDtype } = recipe;
  const perWord = 32 / bits;
  const weight = new Uint32Array((rows * cols) / perWord);
  for (const [i, code] of codes.entries()) {
    weight[Math.floor(i / perWord)]! |= code << (bits * (i % perWord));
  }
  const zero = new Uint32Array((rows * groups) / perWord);
  for (const [i, value] of zeros.entries()) {
    const row = Math.floor(i / groups);
    zero[Math.floor(row / perWord) * groups + (i % groups)]! |= value << (bits * (row % perWord));
  }
  return Object.entries({
    weight_packed: words([rows, cols / perWord], weight),
    weight_scale: numbers([rows, groups], scales, scaleDtype),
    weight_shape: {
      dtype: "I64",
      shape: [2],
      data: bytesOf(BigInt64Array.of(BigInt(rows), BigInt(cols))),
    },
    ...(!symmetric && { weight_zero_point: words([rows / perWord, groups], zero) }),
  });
}

function storeWide({ rows, cols, groups, codes, scales }: Quantized, { scaleDtype }: Recipe) {
  const data = Uint8Array.from(codes, (code) => code - 128);
  return Object.entries({
    weight: { dtype: "I8", shape: [rows, cols], data },
    weight_scale: numbers([rows, groups], scales, scaleDtype),
  });
}

function configOf({ method, bits, groupSize, symmetric }: Recipe): object {
  const group_size = groupSize ?? -1;
  if (method === "awq") {
    return { quant_method: "awq", bits, group_size, version: "gemm", zero_point: !symmetric };
  }
  if (method === "gptq" || method === "gptq_v2") {
    const checkpoint_format = method;
    return {
      quant_method: "gptq",
      bits,
      group_size,
      sym: symmetric,
      desc_act: false,
      checkpoint_format,
    };
  }
  const strategy = groupSize === undefined ? "channel" : "group";
  const weights = {
    num_bits: bits,
    type: "int",
    symmetric,
    strategy,
    group_size: groupSize ?? null,
  };
  const input_activations = bits === 8 ? { num_bits: 8, type: "int", dynamic: true } : null;
  return {
    quant_method: "compressed-tensors",
    format: method,
    ignore: ["lm_head"],
    config_groups: { group_0: { targets: ["Linear"], weights, input_activations } },
  };
}

// ---- files

/** The tensors of a safetensors file. */
export function readTensors(file: string): Tensors {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString("utf8", 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const entries = Object.entries(header).map(([name, { dtype, shape, data_offsets }]) => {
    const [begin, end] = data_offsets;
    return [name, { dtype, shape, data: bytes.subarray(start + begin, start + end) }] as const;
  });
  return new Map(entries);
}

export function writeTensors(file: string, tensors: Tensors): void {
  let end = 0;
  const entries = [...tensors].map(([name, { dtype, shape, data }]) => {
    const begin = end;
    end += data.length;
    return [name, { dtype, shape, data_offsets: [begin, end] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(file, Buffer.concat([length, header, ...[...tensors.values()].map((t) => t.data)]));
}

function writeDirectory(path: string, from: string, config: object, tensors: Tensors): void {
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, "config.json"), JSON.stringify(config));
  copyFileSync(join(from, "generation_config.json"), join(path, "generation_config.json"));
  writeTensors(join(path, "model.safetensors"), tensors);
}

function words(shape: readonly number[], values: Uint32Array): Tensor {
  return { dtype: "I32", shape, data: bytesOf(values) };
}

function numbers(shape: readonly number[], values: Float64Array, dtype: string): Tensor {
  if (dtype === "F32") return { dtype, shape, data: bytesOf(Float32Array.from(values)) };
  if (dtype === "F16") return { dtype, shape, data: bytesOf(Uint16Array.from(values, halfBits)) };
  const floats = new Uint32Array(Float32Array.from(values).buffer);
  return { dtype, shape, data: bytesOf(Uint16Array.from(floats, (bits) => bits >>> 16)) };
}

/** Of a positive number that a normal half holds exactly. */
function halfBits(value: number): number {
  const exponent = Math.floor(Math.log2(value));
  return ((exponent + 15) << 10) | ((value / 2 ** exponent - 1) * 1024);
}

function bf16Values(data: Uint8Array): Float32Array {
  const halves = new Uint16Array(new Uint8Array(data).buffer);
  return new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);
}

function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
