/** A value of GGUF metadata with its type. */
export type GgufValue =
  | { readonly type: "string"; readonly value: string }
  | { readonly type: NumberType; readonly value: number | bigint }
  | { readonly type: "array"; readonly of: NumberType | "string"; readonly items: readonly Item[] };

type Item = string | number | bigint;

/** A type of numbers; a `bool` is 0 or 1. */
export type NumberType = Exclude<keyof typeof typeIds, "string" | "array">;

const typeIds = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;

/** Numbers of the tensor types that tests write. */
export const tensorTypeIds = { F32: 0, F16: 1, Q8_0: 8, Q4_K: 12, BF16: 30 } as const;

export interface GgufTensor {
  readonly name: string;
  /** As in Hugging Face, the longest stride first. */
  readonly shape: readonly number[];
  /** Number of its type. */
  readonly type: number;
  readonly data: Uint8Array;
}

export interface GgufContent {
  readonly metadata?: Readonly<Record<string, GgufValue>>;
  readonly tensors?: readonly GgufTensor[];
  readonly version?: number;
  /** Also what the file says, unless it is 32. */
  readonly alignment?: number;
}

export const text = (value: string): GgufValue => ({ type: "string", value });
export const u32 = (value: number): GgufValue => ({ type: "u32", value });
export const f32 = (value: number): GgufValue => ({ type: "f32", value });
export const bool = (value: boolean): GgufValue => ({ type: "bool", value: value ? 1 : 0 });
export const list = (of: NumberType | "string", items: readonly Item[]): GgufValue => {
  return { type: "array", of, items };
};

/** The bytes of a GGUF file, little-endian. */
export function writeGguf({
  metadata = {},
  tensors = [],
  version = 3,
  alignment = 32,
}: GgufContent): Buffer {
  const keys = Object.entries(metadata);
  if (alignment !== 32) keys.push(["general.alignment", u32(alignment)]);
  const parts = [Buffer.from("GGUF"), number("u32", version)];
  parts.push(number("u64", tensors.length), number("u64", keys.length));
  for (const [key, value] of keys) parts.push(string(key), typed(value));
  let offset = 0;
  for (const { name, shape, type, data } of tensors) {
    parts.push(string(name), number("u32", shape.length));
    for (const size of shape.toReversed()) parts.push(number("u64", size));
    parts.push(number("u32", type), number("u64", offset));
    offset += padded(data.length, alignment);
  }
  const header = Buffer.concat(parts);
  const data = tensors.map((tensor) => pad(tensor.data, alignment));
  return Buffer.concat([pad(header, alignment), ...data]);
}

/** A value behind the number of its type. */
function typed(value: GgufValue): Buffer {
  const type = number("u32", typeIds[value.type]);
  if (value.type === "string") return Buffer.concat([type, string(value.value)]);
  if (value.type !== "array") return Buffer.concat([type, number(value.type, value.value)]);
  const { of, items } = value;
  const parts = items.map((item) =>
    of === "string" ? string(item as string) : number(of, item as number | bigint),
  );
  return Buffer.concat([type, number("u32", typeIds[of]), number("u64", items.length), ...parts]);
}

export function string(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([number("u64", bytes.length), bytes]);
}

export function number(type: NumberType, value: number | bigint): Buffer {
  const view = new DataView(new ArrayBuffer(8));
  const length = writers[type](view, value);
  return Buffer.from(view.buffer, 0, length);
}

type Write = (view: DataView, value: number | bigint) => number;

const writers: Readonly<Record<NumberType, Write>> = {
  u8: (view, value) => (view.setUint8(0, Number(value)), 1),
  i8: (view, value) => (view.setInt8(0, Number(value)), 1),
  bool: (view, value) => (view.setUint8(0, Number(value)), 1),
  u16: (view, value) => (view.setUint16(0, Number(value), true), 2),
  i16: (view, value) => (view.setInt16(0, Number(value), true), 2),
  u32: (view, value) => (view.setUint32(0, Number(value), true), 4),
  i32: (view, value) => (view.setInt32(0, Number(value), true), 4),
  f32: (view, value) => (view.setFloat32(0, Number(value), true), 4),
  u64: (view, value) => (view.setBigUint64(0, BigInt(value), true), 8),
  i64: (view, value) => (view.setBigInt64(0, BigInt(value), true), 8),
  f64: (view, value) => (view.setFloat64(0, Number(value), true), 8),
};

function padded(length: number, alignment: number): number {
  return Math.ceil(length / alignment) * alignment;
}

function pad(bytes: Uint8Array, alignment: number): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(padded(bytes.length, alignment) - bytes.length)]);
}
