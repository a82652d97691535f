/** Types of quantised weights, as GGUF files hold them (native/block-formats.h has their layouts). */
export type QuantizedDtype =
  "q8_0" | "q4_0" | "q4_1" | "q5_0" | "q5_1" | "q4_k" | "q5_k" | "q6_k" | "mxfp4";

/** Types that a tensor keeps from its file to memory. */
export type KeptDtype = "f16" | QuantizedDtype;

/** Type of a weight in device memory. */
export type WeightDtype = "f32" | "bf16" | KeptDtype;

/** Type of a tensor in a file, in capitals. */
export type FileDtype = Uppercase<WeightDtype>;

/** The unit that a row of a type is cut into. */
export interface BlockFormat {
  /** 1 for plain elements. */
  readonly columns: number;
  readonly bytes: number;
}

const blocks: Readonly<Record<FileDtype, BlockFormat>> = {
  F32: { columns: 1, bytes: 4 },
  F16: { columns: 1, bytes: 2 },
  BF16: { columns: 1, bytes: 2 },
  Q8_0: { columns: 32, bytes: 34 },
  Q4_0: { columns: 32, bytes: 18 },
  Q4_1: { columns: 32, bytes: 20 },
  Q5_0: { columns: 32, bytes: 22 },
  Q5_1: { columns: 32, bytes: 24 },
  Q4_K: { columns: 256, bytes: 144 },
  Q5_K: { columns: 256, bytes: 176 },
  Q6_K: { columns: 256, bytes: 210 },
  MXFP4: { columns: 32, bytes: 17 },
};

export const fileDtypes: readonly string[] = Object.keys(blocks);

export function isFileDtype(name: string): name is FileDtype {
  return Object.hasOwn(blocks, name);
}

export function blockFormat(dtype: FileDtype | WeightDtype): BlockFormat {
  return blocks[dtype.toUpperCase() as FileDtype];
}

export function isQuantized(dtype: WeightDtype): dtype is QuantizedDtype {
  return blockFormat(dtype).columns > 1;
}

/** Bytes of a row of `cols` columns, which the type's block must divide. */
export function rowBytes(dtype: FileDtype | WeightDtype, cols: number): number {
  const { columns, bytes } = blockFormat(dtype);
  return (cols / columns) * bytes;
}
