import { blockFormats } from "./block-formats.mjs";

/** Bytes that are written at once. */
const chunkBytes = 2 ** 20;

/** Bytes of a row of `cols` elements. */
export function rowBytes(type, cols) {
  const { elements, bytes } = blockFormats[type];
  return (cols / elements) * bytes;
}

/** The rows of all matrices of a tensor, and their columns; a vector is one row. */
export function rowsAndCols(shape) {
  return [shape.slice(0, -1).reduce((product, size) => product * size, 1), shape.at(-1)];
}

/**
 * Passes the rows of a tensor on encoded, a chunk at a time. `fill(row, values)` makes one of them; `order(row)` says which
 * row stands in the place of another one.
 */
export function encodeTensor(tensor, type, { fill, order = (row) => row }, write) {
  const [rows, cols] = rowsAndCols(tensor.shape);
  const values = new Float32Array(cols);
  const bytes = rowBytes(type, cols);
  const rowsAtOnce = Math.max(1, Math.floor(chunkBytes / bytes));
  for (let start = 0; start < rows; start += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - start);
    const chunk = Buffer.alloc(count * bytes);
    for (let row = 0; row < count; row++) {
      fill(order(start + row), values);
      encodeRow(values, type, new DataView(chunk.buffer, chunk.byteOffset + row * bytes, bytes));
    }
    write(chunk);
  }
}

function encodeRow(values, type, out) {
  const { elements, bytes, encode } = blockFormats[type];
  for (let start = 0, at = 0; start < values.length; start += elements, at += bytes) {
    const block = new DataView(out.buffer, out.byteOffset + at, bytes);
    encode(values.subarray(start, start + elements), block);
  }
}
