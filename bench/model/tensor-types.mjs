import { blockFormats } from "./block-formats.mjs";

/**
 * Says which type each tensor of a shape has in a GGUF file of a type: `f32`, `q8_0` ..., `q4_k_m`, or `mxfp4_moe`. As in
 * llama.cpp, rows that are not a multiple of 256 elements take q5_0 for q4_k, q5_1 for q5_k and q8_0 for q6_k. Vectors stay
 * float32, and tensors that have a `type` of their own keep it.
 */
export function typesOf(type, shape) {
  const fallbacks = { Q4_K: "Q5_0", Q5_K: "Q5_1", Q6_K: "Q8_0" };
  return ({ gguf, shape: dimensions, type: own }) => {
    const wanted = wantedType(type, gguf, shape);
    if (blockFormats[wanted] === undefined) throw new Error(`Unknown type ${type}`);
    if (dimensions.length === 1) return "F32";
    if (own !== undefined) return own;
    return dimensions.at(-1) % blockFormats[wanted].elements === 0 ? wanted : fallbacks[wanted];
  };
}

function wantedType(type, name, shape) {
  if (type === "q4_k_m") return mixedType(name, shape);
  if (type === "mxfp4_moe") return name.includes("_exps.") ? "MXFP4" : "Q8_0";
  return type.toUpperCase();
}

/** More bits where they help most. */
function mixedType(name, shape) {
  const isOutput =
    name === "output.weight" || (name === "token_embd.weight" && shape.tie_word_embeddings);
  const layer = /^blk\.(\d+)\.(?:attn_v|ffn_down(?:_exps)?)\./.exec(name)?.[1];
  const isRich = layer !== undefined && Number(layer) % 2 === 0;
  return isOutput || isRich ? "Q6_K" : "Q4_K";
}
