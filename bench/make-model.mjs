// Writes a model of random weights in a real shape, for measurements: what a step costs does not depend on the numbers.
//
//   node bench/make-model.mjs SHAPE TYPE OUT [--seed=N]
//
//   SHAPE  smollm2-135m, qwen2.5-0.5b, llama-3.2-1b
//          qwen3-moe-1b (32 experts, 4 a token), deepseek-v2-1b (32 experts, 6 a token and 2 shared; latent attention)
//          mla-0.6b (latent attention, no experts)
//          tiny, tiny-moe, tiny-mla (for tests)
//   TYPE   hf: OUT is a directory with bfloat16 safetensors
//          f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, mxfp4: OUT is a GGUF file
//          mxfp4_moe: mxfp4 for experts, else q8_0
//          q4_k_m: q4_k, with q6_k for the output, and for values and down projections in half of the layers
//
// Weights depend on shape and seed alone: every type holds the same model. As in llama.cpp, rows that are not a multiple of
// 256 elements take q5_0 for q4_k, q5_1 for q5_k and q8_0 for q6_k; vectors and routers stay float32. Activations keep their
// size from layer to layer. Memory stays below 200 MB.
import { randomRows } from "./model/random-rows.mjs";
import { shapes } from "./model/shapes.mjs";
import { typesOf } from "./model/tensor-types.mjs";
import { tensorsOf } from "./model/tensors.mjs";
import { writeDirectory } from "./model/write-directory.mjs";
import { writeGguf } from "./model/write-gguf.mjs";

const [shapeName, type, out] = process.argv.slice(2);
const seed = process.argv.find((word) => word.startsWith("--seed="))?.slice(7) ?? "1";
const shape = shapes[shapeName];
if (shape === undefined || type === undefined || out === undefined) {
  throw new Error("Usage: node bench/make-model.mjs SHAPE TYPE OUT [--seed=N]");
}
const tensors = tensorsOf(shape);
const rowsOf = (tensor) => randomRows(seed, tensor);
if (type === "hf") {
  writeDirectory(out, shape, tensors, { rowsOf });
} else {
  const name = `random ${shapeName}`;
  writeGguf(out, shape, tensors, { name, typeOf: typesOf(type, shape), rowsOf });
}
