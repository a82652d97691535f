import { PagodaError } from "../errors.js";
import type { Checkpoint } from "./safetensors.js";
import type { TensorEntry } from "./safetensors-header.js";

/** The tensor of that name. @throws ERR_TENSOR_MISMATCH where it is missing or has another dtype */
export function expectTensor(
  checkpoint: Checkpoint,
  name: string,
  dtypes: readonly string[],
): TensorEntry {
  const entry = checkpoint.tensors.get(name);
  const expected = `dtype ${dtypes.join(" or ")}`;
  if (entry !== undefined && dtypes.includes(entry.dtype)) return entry;
  throw tensorMismatch(entry ?? { name }, expected, entry?.dtype ?? "nothing");
}

/** @throws ERR_TENSOR_MISMATCH */
export function checkShape(entry: TensorEntry, shape: readonly number[]): void {
  const expected = `[${shape.join(", ")}]`;
  if (`[${entry.shape.join(", ")}]` !== expected) throw tensorMismatch(entry, `shape ${expected}`);
}

/** ERR_TENSOR_MISMATCH; what was received is the shape unless it is given. */
export function tensorMismatch(
  entry: Pick<TensorEntry, "name"> & Partial<TensorEntry>,
  expected: string,
  received = `[${(entry.shape ?? []).join(", ")}]`,
): PagodaError {
  const tensor = entry.name;
  return new PagodaError(
    "ERR_TENSOR_MISMATCH",
    `Expected ${expected} for tensor ${tensor} but received ${received}`,
    { details: { tensor, expected, received } },
  );
}
