import { at, rowOf, type Matrix } from "./matrix.js";

/** out[t] = table[tokenIds[t]] * scale */
export function embed(
  out: Matrix, // [tokens, hidden]
  tokenIds: Int32Array, // [tokens], each in [0, table.rows)
  table: Matrix, // [vocab, hidden]
  { scale }: { scale: number },
): void {
  for (let token = 0; token < out.rows; token++) {
    const source = rowOf(table, at(tokenIds, token));
    const target = rowOf(out, token);
    for (let i = 0; i < out.width; i++) target[i] = at(source, i) * scale;
  }
}
