import type { ModelDtype } from "../graph/choose-dtype.js";
import type { KeptDtype } from "../graph/dtypes.js";
import type { Plan } from "../graph/plan.js";
import type { Checkpoint } from "../loading/safetensors.js";
import { automaticDtype, automaticKvDtype, keptTensors } from "../loading/weights.js";
import {
  compileModel,
  type ModelCompileOptions,
  type ModelDefinition,
} from "../models/model-definition.js";

/** A model compiled for the types of its weights. */
export interface CompiledCheckpoint {
  readonly plan: Plan;
  /** What was asked for, or with `auto` the type of most weights. */
  readonly dtype: ModelDtype | KeptDtype;
  /** What `kvCache.dtype: "auto"` means. */
  readonly kvDtype: "f32" | "bf16";
}

/**
 * Compiles a model for weights of type `dtype`. With `auto`, quantised and F16 tensors keep the types that they have in
 * their file, each its own; all others get the one that {@link automaticDtype} chooses.
 */
export function compileCheckpoint(
  model: ModelDefinition,
  checkpoint: Checkpoint,
  dtype: "auto" | ModelDtype,
  limits: Pick<ModelCompileOptions, "maxTokens" | "maxOutputs" | "mlaExpandFrom" | "maxModelLen">,
): CompiledCheckpoint {
  if (dtype !== "auto") {
    const plan = compileModel(model, { ...limits, dtype });
    return { plan, dtype, kvDtype: automaticKvDtype(dtype) };
  }
  const plain = automaticDtype(checkpoint);
  const kept = keptTensors(checkpoint);
  const plan = compileModel(model, { ...limits, dtype: plain, kept });
  return { plan, dtype: mainDtype(plan), kvDtype: automaticKvDtype(plain) };
}

/** The type of most numbers in matrices and tables. */
function mainDtype({ weights }: Plan): CompiledCheckpoint["dtype"] {
  const counts = new Map<CompiledCheckpoint["dtype"], number>();
  for (const { kind, dtype, rows, cols } of weights) {
    if (kind !== "vector") counts.set(dtype, (counts.get(dtype) ?? 0) + rows * cols);
  }
  const [first] = [...counts].toSorted((a, b) => b[1] - a[1]);
  return first?.[0] ?? "f32";
}
