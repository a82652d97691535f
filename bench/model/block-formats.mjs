// Encoders of ggml's tensor types: `encode(x, out)` writes one block of `elements` numbers as `bytes` bytes. Scales are
// found in one pass over a block, without the searches that llama.cpp makes for a little less error.

/** By name; `id` is the number of the type in GGUF files. */
export const blockFormats = {
  F32: { id: 0, elements: 1, bytes: 4, encode: ([x], out) => void out.setFloat32(0, x, true) },
  F16: { id: 1, elements: 1, bytes: 2, encode: ([x], out) => out.setUint16(0, toHalf(x), true) },
  BF16: { id: 30, elements: 1, bytes: 2, encode: ([x], out) => out.setUint16(0, toBf16(x), true) },
  Q4_0: { id: 2, elements: 32, bytes: 18, encode: encodeQ4_0 },
  Q4_1: { id: 3, elements: 32, bytes: 20, encode: encodeQ4_1 },
  Q5_0: { id: 6, elements: 32, bytes: 22, encode: encodeQ5_0 },
  Q5_1: { id: 7, elements: 32, bytes: 24, encode: encodeQ5_1 },
  Q8_0: { id: 8, elements: 32, bytes: 34, encode: encodeQ8_0 },
  Q4_K: { id: 12, elements: 256, bytes: 144, encode: encodeQ4_K },
  Q5_K: { id: 13, elements: 256, bytes: 176, encode: encodeQ5_K },
  Q6_K: { id: 14, elements: 256, bytes: 210, encode: encodeQ6_K },
  MXFP4: { id: 39, elements: 32, bytes: 17, encode: encodeMxfp4 },
};

const floatBits = new Float32Array(1);
const bits = new Uint32Array(floatBits.buffer);

/** Nearest bfloat16, ties to even. */
export function toBf16(x) {
  floatBits[0] = x;
  return (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) >>> 16;
}

/** Nearest half, ties to even. */
function toHalf(x) {
  floatBits[0] = x;
  const sign = (bits[0] >>> 16) & 0x8000;
  const magnitude = Math.abs(x);
  if (magnitude >= 65_520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | roundEven(magnitude * 2 ** 24);
  const rounded = (bits[0] & 0x7fffffff) + 0xfff + ((bits[0] >>> 13) & 1);
  return sign | ((rounded >>> 13) - (112 << 10));
}

function roundEven(x) {
  const floor = Math.floor(x);
  const isUp = x - floor > 0.5 || (x - floor === 0.5 && floor % 2 === 1);
  return isUp ? floor + 1 : floor;
}

function fromHalf(half) {
  const exponent = (half >>> 10) & 31;
  const fraction = half & 1023;
  const magnitude =
    exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return half & 0x8000 ? -magnitude : magnitude;
}

/** Writes the half that is nearest to `x` and returns what it stands for. */
function putHalf(out, offset, x) {
  const half = toHalf(x);
  out.setUint16(offset, half, true);
  return fromHalf(half);
}

/** Nearest integer of x / unit in [0, max]. */
function level(x, unit, max) {
  if (unit === 0) return 0;
  const rounded = Math.floor(x / unit + 0.5);
  return rounded < 0 ? 0 : rounded > max ? max : rounded;
}

/** The number with the largest magnitude. */
function extreme(x, start, end) {
  let found = 0;
  for (let i = start; i < end; i++) if (Math.abs(x[i]) > Math.abs(found)) found = x[i];
  return found;
}

function range(x, start, end) {
  let [min, max] = [x[start], x[start]];
  for (let i = start; i < end; i++) {
    if (x[i] < min) min = x[i];
    if (x[i] > max) max = x[i];
  }
  return [min, max];
}

// ---- blocks of 32

/** d, then 32 signed bytes. */
function encodeQ8_0(x, out) {
  const d = putHalf(out, 0, Math.abs(extreme(x, 0, 32)) / 127);
  for (let i = 0; i < 32; i++)
    out.setInt8(2 + i, d === 0 ? 0 : level(x[i] + 127 * d, d, 254) - 127);
}

/** Scratch: the levels of the block that is being written. */
const levels = new Uint8Array(256);

/** d (q - half): the extreme number becomes 0, the level that has no counterpart. */
function symmetricLevels(x, out, half) {
  const d = putHalf(out, 0, extreme(x, 0, 32) / -half);
  for (let i = 0; i < 32; i++) levels[i] = d === 0 ? half : level(x[i] + half * d, d, 2 * half - 1);
}

/** d q + m. */
function offsetLevels(x, out, top) {
  const [min, max] = range(x, 0, 32);
  const d = putHalf(out, 0, (max - min) / top);
  const m = putHalf(out, 2, min);
  for (let i = 0; i < 32; i++) levels[i] = level(x[i] - m, d, top);
}

/** Low halves: element i beside element i + 16. */
function putNibbles(out, offset) {
  for (let i = 0; i < 16; i++) {
    out.setUint8(offset + i, (levels[i] & 15) | ((levels[i + 16] & 15) << 4));
  }
}

/** Fifth bits, one a bit. */
function putHighBits(out, offset) {
  let high = 0;
  for (let i = 0; i < 32; i++) high |= (levels[i] >> 4) << i;
  out.setInt32(offset, high, true);
}

function encodeQ4_0(x, out) {
  symmetricLevels(x, out, 8);
  putNibbles(out, 2);
}

function encodeQ4_1(x, out) {
  offsetLevels(x, out, 15);
  putNibbles(out, 4);
}

function encodeQ5_0(x, out) {
  symmetricLevels(x, out, 16);
  putHighBits(out, 2);
  putNibbles(out, 6);
}

function encodeQ5_1(x, out) {
  offsetLevels(x, out, 31);
  putHighBits(out, 4);
  putNibbles(out, 8);
}

/** Twice the numbers of FP4, and what lies halfway between them. */
const fp4Doubled = [0, 1, 2, 3, 4, 6, 8, 12];
const fp4Bounds = fp4Doubled.slice(1).map((size, i) => (size + fp4Doubled[i]) / 2);

/** The exponent of the largest number, less FP4's own, as a byte; then codes of sign and size. */
function encodeMxfp4(x, out) {
  const largest = Math.abs(extreme(x, 0, 32));
  const exponent = largest === 0 ? 0 : Math.max(Math.floor(Math.log2(largest)) - 2 + 127, 0);
  const unit = 2 ** (exponent - 128);
  out.setUint8(0, exponent);
  for (let i = 0; i < 32; i++) {
    const size = Math.abs(x[i]) / unit;
    let rank = 0;
    while (rank < fp4Bounds.length && size > fp4Bounds[rank]) rank++;
    levels[i] = x[i] < 0 ? rank + 8 : rank;
  }
  putNibbles(out, 1);
}

// ---- blocks of 256

/** Scratch, as {@link levels}. */
const scales = new Float64Array(16);
const minima = new Float64Array(8);

/**
 * d scale q - dmin min, with a scale and a min of 6 bits for each of 8 runs of 32: d, dmin, then 12 bytes of scales and mins.
 */
function runLevels(x, out, top) {
  for (let run = 0; run < 8; run++) {
    const [min, max] = range(x, 32 * run, 32 * run + 32);
    minima[run] = Math.max(-min, 0);
    scales[run] = Math.max(max + minima[run], 0) / top;
  }
  const d = putHalf(out, 0, scales.subarray(0, 8).reduce((a, b) => Math.max(a, b)) / 63);
  const dmin = putHalf(out, 2, minima.reduce((a, b) => Math.max(a, b)) / 63);
  for (let at = 4; at < 16; at++) out.setUint8(at, 0);
  for (let run = 0; run < 8; run++) {
    const scale = level(scales[run], d, 63);
    const min = level(minima[run], dmin, 63);
    putScale(out, run, scale, min);
    for (let i = 32 * run; i < 32 * run + 32; i++) {
      levels[i] = level(x[i] + dmin * min, d * scale, top);
    }
  }
}

/** Runs 0 to 3 have bytes of their own; those after use what is left of the bits. */
function putScale(out, run, scale, min) {
  const put = (at, value) => out.setUint8(4 + at, out.getUint8(4 + at) | value);
  if (run < 4) {
    put(run, scale);
    put(run + 4, min);
    return;
  }
  put(run + 4, (scale & 15) | ((min & 15) << 4));
  put(run - 4, (scale >> 4) << 6);
  put(run, (min >> 4) << 6);
}

/** Low halves: of each 64, element i beside element i + 32. */
function putRunNibbles(out, offset) {
  for (let i = 0; i < 128; i++) {
    const at = 64 * (i >> 5) + (i & 31);
    out.setUint8(offset + i, (levels[at] & 15) | ((levels[at + 32] & 15) << 4));
  }
}

function encodeQ4_K(x, out) {
  runLevels(x, out, 15);
  putRunNibbles(out, 16);
}

/** The fifth bit of element 32 run + i is bit `run` of byte i. */
function encodeQ5_K(x, out) {
  runLevels(x, out, 31);
  for (let i = 0; i < 32; i++) {
    let high = 0;
    for (let run = 0; run < 8; run++) high |= (levels[32 * run + i] >> 4) << run;
    out.setUint8(16 + i, high);
  }
  putRunNibbles(out, 48);
}

/** d scale (q - 32), a signed scale of 8 bits for each of 16 runs of 16; low halves, upper bits, scales, d. */
function encodeQ6_K(x, out) {
  for (let run = 0; run < 16; run++) scales[run] = extreme(x, 16 * run, 16 * run + 16) / -32;
  const d = putHalf(out, 208, Math.abs(extreme(scales, 0, 16)) / 127);
  for (let run = 0; run < 16; run++) {
    const scale = d === 0 ? 0 : Math.round(scales[run] / d);
    out.setInt8(192 + run, scale);
    const unit = d * scale;
    for (let i = 16 * run; i < 16 * run + 16; i++) {
      levels[i] = unit === 0 ? 32 : level(x[i] + 32 * unit, unit, 63);
    }
  }
  for (let half = 0; half < 2; half++) putSixBits(out, half);
}

/** Of 128 elements, those 32 apart share bytes. */
function putSixBits(out, half) {
  for (let i = 0; i < 32; i++) {
    const [a, b, c, d] = [0, 32, 64, 96].map((at) => levels[128 * half + at + i]);
    out.setUint8(64 * half + i, (a & 15) | ((c & 15) << 4));
    out.setUint8(64 * half + 32 + i, (b & 15) | ((d & 15) << 4));
    out.setUint8(
      128 + 32 * half + i,
      (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6),
    );
  }
}
