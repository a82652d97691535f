import { compileCheckpoint, type CompiledCheckpoint } from "../engine/compile-checkpoint.js";
import type { ModelDtype } from "../graph/choose-dtype.js";
import { rowBytes } from "../graph/dtypes.js";
import { elementsPerToken, kvSlots } from "../graph/kv-groups.js";
import { planToString } from "../graph/plan-to-string.js";
import type { Plan, PlanWeight } from "../graph/plan.js";
import { openModel } from "../loading/model-directory.js";
import type { Checkpoint } from "../loading/safetensors.js";
import { hasTokenizer } from "../loading/tokenizer.js";
import { readTemplates, readTokenizer, type TokenizerSource } from "../loading/tokenizer-source.js";
import { resolveWeight } from "../loading/weights.js";
import { defineModel } from "../models/registry.js";

/** What `pagoda inspect` tells, as plain data. */
export interface ModelReport {
  readonly name: string;
  readonly path: string;
  readonly architecture: string;
  readonly parameters: number;
  /** Of the files, by dtype, the most parameters first. */
  readonly tensors: readonly { dtype: string; count: number; parameters: number }[];
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly hasTokenizer: boolean;
  readonly hasChatTemplate: boolean;
  /** In memory, before the backend's packing. */
  readonly weights: { readonly dtype: CompiledCheckpoint["dtype"]; readonly bytes: number };
  readonly kvCache: {
    readonly dtype: CompiledCheckpoint["kvDtype"];
    readonly bytesPerToken: number;
    readonly bytesPer1kTokens: number;
  };
  /** Workspace of a step. */
  readonly arenaBytes: number;
  readonly maxBatchTokens: number;
  readonly plan: string;
}

/** The engine's defaults. */
const maxBatchTokens = 2048;
const maxSequences = 64;

/**
 * Reads config and headers of a model, but no weights, and checks that all tensors are there.
 *
 * @throws PagodaError as `createEngine` does for the same model
 */
export async function inspectModel(
  modelPath: string,
  dtype: "auto" | ModelDtype,
): Promise<ModelReport> {
  const { path, name, config, checkpoint, tokenizer } = await openModel(modelPath);
  const model = defineModel(config);
  const limits = { maxTokens: maxBatchTokens, maxOutputs: maxSequences };
  const compiled = compileCheckpoint(model, checkpoint, dtype, limits);
  const { plan, kvDtype } = compiled;
  for (const weight of plan.weights) resolveWeight(checkpoint, weight);
  const bytesPerToken = kvBytesPerToken(plan, kvDtype);
  return {
    name,
    path,
    architecture: model.architecture,
    parameters: countParameters(plan),
    tensors: tensorsByDtype(checkpoint),
    numLayers: model.numLayers,
    hiddenSize: model.hiddenSize,
    vocabSize: model.vocabSize,
    contextLength: model.maxPositionEmbeddings,
    ...(await tokenizerFacts(tokenizer)),
    weights: {
      dtype: compiled.dtype,
      bytes: plan.weights.reduce((sum, w) => sum + weightBytes(w), 0),
    },
    kvCache: { dtype: kvDtype, bytesPerToken, bytesPer1kTokens: 1024 * bytesPerToken },
    arenaBytes: plan.arenaBytes,
    maxBatchTokens,
    plan: planToString(plan),
  };
}

/** As the engine counts them: of the weights that come from the files. */
function countParameters({ weights }: Plan): number {
  const loaded = weights.filter(({ source }) => "parts" in source);
  return loaded.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
}

function weightBytes({ rows, cols, dtype }: PlanWeight): number {
  return rows * rowBytes(dtype, cols);
}

/** K and V in all slots of every KV group. */
function kvBytesPerToken(plan: Plan, dtype: CompiledCheckpoint["kvDtype"]): number {
  const elements = kvSlots(plan).reduce((sum, kv) => sum + elementsPerToken(kv), 0);
  return plan.kvGroups.length * rowBytes(dtype, elements);
}

function tensorsByDtype(
  checkpoint: Checkpoint,
): { dtype: string; count: number; parameters: number }[] {
  const groups = new Map<string, { dtype: string; count: number; parameters: number }>();
  for (const { dtype, shape } of checkpoint.tensors.values()) {
    const group = groups.get(dtype) ?? { dtype, count: 0, parameters: 0 };
    group.count++;
    group.parameters += shape.reduce((product, size) => product * size, 1);
    groups.set(dtype, group);
  }
  return [...groups.values()].sort((a, b) => b.parameters - a.parameters);
}

async function tokenizerFacts(
  source: TokenizerSource | undefined,
): Promise<{ hasTokenizer: boolean; hasChatTemplate: boolean }> {
  if (source === undefined || !(await hasTokenizer(source))) {
    return { hasTokenizer: false, hasChatTemplate: false };
  }
  const { sources } = readTemplates(source, readTokenizer(source, false));
  return { hasTokenizer: true, hasChatTemplate: Object.keys(sources).length > 0 };
}
