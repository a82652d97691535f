import { blockFormat, type QuantizedDtype } from "../graph/dtypes.js";
import { halfToNumber } from "./half.js";

/** Bytes of one block and where its values go. */
interface Block {
  readonly half: (at: number) => number;
  readonly byte: (at: number) => number;
  readonly signed: (at: number) => number;
  readonly set: (column: number, value: number) => void;
}

/**
 * The values of blocks that lie one after the other, as GGUF files hold them; native/block-formats.h describes each type.
 * Values are rounded once, to float32.
 */
export function dequantize(bytes: DataView, dtype: QuantizedDtype): Float32Array {
  const format = blockFormat(dtype);
  const count = bytes.byteLength / format.bytes;
  const values = new Float32Array(count * format.columns);
  for (let block = 0; block < count; block++) {
    const start = block * format.bytes;
    decoders[dtype]({
      half: (at) => halfToNumber(bytes.getUint16(start + at, true)),
      byte: (at) => bytes.getUint8(start + at),
      signed: (at) => bytes.getInt8(start + at),
      set: (column, value) => (values[block * format.columns + column] = value),
    });
  }
  return values;
}

const decoders: Readonly<Record<QuantizedDtype, (block: Block) => void>> = {
  q8_0: ({ half, signed, set }) => {
    for (let i = 0; i < 32; i++) set(i, half(0) * signed(2 + i));
  },
  q4_0: ({ half, byte, set }) => {
    for (let i = 0; i < 32; i++) set(i, half(0) * (nibble(byte, 2, i) - 8));
  },
  q4_1: ({ half, byte, set }) => {
    for (let i = 0; i < 32; i++) set(i, half(0) * nibble(byte, 4, i) + half(2));
  },
  q5_0: ({ half, byte, set }) => {
    for (let i = 0; i < 32; i++) {
      set(i, half(0) * (nibble(byte, 6, i) + 16 * bitOf(byte, 2, i) - 16));
    }
  },
  q5_1: ({ half, byte, set }) => {
    for (let i = 0; i < 32; i++) {
      set(i, half(0) * (nibble(byte, 8, i) + 16 * bitOf(byte, 4, i)) + half(2));
    }
  },
  q4_k: ({ half, byte, set }) => {
    for (let i = 0; i < 256; i++) {
      const { scale, min } = sixBitFactors(byte, Math.floor(i / 32));
      set(i, half(0) * scale * nibbleOfPair(byte, 16, i) - half(2) * min);
    }
  },
  q5_k: ({ half, byte, set }) => {
    for (let i = 0; i < 256; i++) {
      const group = Math.floor(i / 32);
      const { scale, min } = sixBitFactors(byte, group);
      const fifth = (byte(16 + (i % 32)) >> group) & 1;
      set(i, half(0) * scale * (nibbleOfPair(byte, 48, i) + 16 * fifth) - half(2) * min);
    }
  },
  q6_k: ({ half, byte, signed, set }) => {
    for (let i = 0; i < 256; i++) {
      const side = Math.floor(i / 128);
      const quarter = Math.floor(i / 32) % 4;
      const low = byte(64 * side + (i % 64)) >> (quarter < 2 ? 0 : 4);
      const high = byte(128 + 32 * side + (i % 32)) >> (2 * quarter);
      const code = (low & 15) + 16 * (high & 3) - 32;
      set(i, half(208) * signed(192 + Math.floor(i / 16)) * code);
    }
  },
  mxfp4: ({ byte, set }) => {
    const scale = byte(0) === 255 ? NaN : 2 ** (byte(0) - 127);
    for (let i = 0; i < 32; i++) set(i, scale * fp4(nibble(byte, 1, i)));
  },
};

const fp4Sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** The number of a code of four bits, the highest of which is its sign. */
function fp4(code: number): number {
  return fp4Sizes[code & 7]! * (code < 8 ? 1 : -1);
}

/** Code i of 32 in 16 bytes: the low nibbles, then the high ones. */
function nibble(byte: Block["byte"], start: number, i: number): number {
  return i < 16 ? byte(start + i) & 15 : byte(start + i - 16) >> 4;
}

function bitOf(byte: Block["byte"], start: number, i: number): number {
  return (byte(start + Math.floor(i / 8)) >> (i % 8)) & 1;
}

/** Code i of 256: each 32 bytes hold 32 columns in their low nibbles and the next 32 in the high ones. */
function nibbleOfPair(byte: Block["byte"], start: number, i: number): number {
  const pair = byte(start + 32 * Math.floor(i / 64) + (i % 32));
  return i % 64 < 32 ? pair & 15 : pair >> 4;
}

/** Scale and minimum of a group of 32 columns from the 12 bytes at byte 4. */
function sixBitFactors(
  byte: Block["byte"],
  group: number,
): { readonly scale: number; readonly min: number } {
  const packed = (i: number): number => byte(4 + i);
  if (group < 4) return { scale: packed(group) & 63, min: packed(group + 4) & 63 };
  return {
    scale: (packed(group + 4) & 15) + 16 * (packed(group - 4) >> 6),
    min: (packed(group + 4) >> 4) + 16 * (packed(group) >> 6),
  };
}
