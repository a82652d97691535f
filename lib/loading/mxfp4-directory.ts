import { checkShape, expectTensor, tensorMismatch } from "./expect-tensor.js";
import type { Checkpoint } from "./safetensors.js";
import type { TensorEntry } from "./safetensors-header.js";

/** Columns of a block, and bytes of its codes. */
const block = { columns: 32, bytes: 16 };
const codesSuffix = "_blocks";
const exponentsSuffix = "_scales";

/**
 * The checkpoint of a gpt-oss directory with codes `NAME_blocks` `[experts, rows, cols / 32, 16]` and exponents `NAME_scales`
 * `[experts, rows, cols / 32]` as one MXFP4 tensor `NAME` `[experts, rows, cols]`, which the native loader makes of both. All
 * other tensors stay.
 *
 * @throws ERR_TENSOR_MISMATCH for a tensor that is missing, or has another dtype or shape
 */
export function blocksOfMxfp4(checkpoint: Checkpoint): Checkpoint {
  const tensors = new Map(checkpoint.tensors);
  for (const name of checkpoint.tensors.keys()) {
    if (!name.endsWith(codesSuffix)) continue;
    const stem = name.slice(0, -codesSuffix.length);
    tensors.delete(name);
    tensors.delete(stem + exponentsSuffix);
    tensors.set(stem, matricesOf(checkpoint, stem));
  }
  return { files: checkpoint.files, tensors };
}

function matricesOf(checkpoint: Checkpoint, name: string): TensorEntry {
  const codes = expectTensor(checkpoint, name + codesSuffix, ["U8"]);
  const exponents = expectTensor(checkpoint, name + exponentsSuffix, ["U8"]);
  const [experts = 0, rows = 0, blocks = 0, bytes] = codes.shape;
  if (codes.shape.length !== 4 || bytes !== block.bytes) {
    throw tensorMismatch(codes, "shape [experts, rows, blocks, 16]");
  }
  checkShape(exponents, [experts, rows, blocks]);
  const { file, offset } = exponents;
  const shape = [experts, rows, blocks * block.columns];
  return { ...codes, name, dtype: "MXFP4", shape, exponents: { file, offset } };
}
