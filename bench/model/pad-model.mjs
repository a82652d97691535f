import { tensorsOf } from "./tensors.mjs";

const block = 256;

/**
 * The same function with rows of whole blocks of 256 elements, so that every type of GGUF fits a small model, too. Hidden
 * and intermediate size get further elements that are zero; so do heads, the same number for each key-value head. Norms are
 * scaled for the zeros that they average over. Where nothing is missing the model stays as it is.
 */
export function padModel({ shape, tensors, rowsOf }) {
  const { hidden_size, num_attention_heads, num_key_value_heads, head_dim } = shape;
  const hidden = roundUp(hidden_size);
  const perKvHead = num_attention_heads / num_key_value_heads;
  let padded = perKvHead;
  while ((padded * num_key_value_heads * head_dim) % block !== 0) padded++;
  const wide = {
    ...shape,
    hidden_size: hidden,
    intermediate_size: roundUp(shape.intermediate_size),
    num_attention_heads: padded * num_key_value_heads,
    rms_norm_eps: (shape.rms_norm_eps * hidden_size) / hidden,
  };
  const narrow = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const group = { from: perKvHead * head_dim, to: padded * head_dim };
  const normScale = Math.sqrt(hidden_size / hidden);
  return {
    shape: wide,
    tensors: tensorsOf(wide),
    rowsOf: ({ name }) => paddedRows(narrow.get(name), rowsOf, { group, normScale }),
  };
}

const roundUp = (size) => Math.ceil(size / block) * block;

/** Rows of queries and columns of the output projection are padded within each group of heads, all else at the end. */
function paddedRows(tensor, rowsOf, { group, normScale }) {
  const fill = rowsOf(tensor);
  const [rows, cols] = tensor.shape.length === 1 ? [1, tensor.shape[0]] : tensor.shape;
  const isQuery = /q_proj/.test(tensor.name);
  const sourceRow = isQuery && tensor.shape.length > 1 ? within(group) : (row) => row;
  const sourceCol =
    /o_proj/.test(tensor.name) || (isQuery && rows === 1) ? within(group) : (i) => i;
  const scale = tensor.name.includes("norm") ? normScale : 1;
  const values = new Float32Array(cols);
  return (row, out) => {
    out.fill(0);
    const from = sourceRow(row);
    if (from === undefined || from >= rows) return;
    fill(from, values);
    for (let i = 0; i < out.length; i++) {
      const at = sourceCol(i);
      if (at !== undefined && at < cols) out[i] = scale * values[at];
    }
  };
}

/** Where an element of groups of `to` was in groups of `from`; undefined: nowhere. */
function within({ from, to }) {
  return (i) => (i % to < from ? Math.floor(i / to) * from + (i % to) : undefined);
}
