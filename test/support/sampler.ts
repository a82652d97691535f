import type { Executor } from "../../lib/engine/executor.js";
import type { SamplingInput, StepOutput } from "../../lib/engine/step.js";
import { compile } from "../../lib/graph/compile.js";
import { createGraph } from "../../lib/graph/graph.js";
import { makeControls, type RowControls } from "./controls.js";
import type { ExecutorKind } from "./executors.js";

/** Parameters of one row; what is not set is neutral, and the temperature is 1. */
export interface SampledRow {
  readonly logits: readonly number[];
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly seed?: number;
  readonly position?: number;
  readonly target?: number;
  readonly logprobs?: number;
  readonly controls?: RowControls;
}

/** An executor that is only used to sample rows of given logits. */
export async function createSampler(kind: ExecutorKind, vocabSize: number, maxRows: number) {
  const graph = createGraph();
  const parts = [{ tensor: "embed", shape: [vocabSize, 2], rowStart: 0, rows: vocabSize }];
  const x = graph.takeRows(graph.embed(graph.table("embed", parts)));
  graph.sample(graph.linear(x, graph.matrix("head", parts)));
  const plan = compile(graph, { maxTokens: maxRows, maxOutputs: maxRows, dtype: "f32" });
  const weights = plan.weights.map(({ rows, cols }) => new Float32Array(rows * cols));
  const kv = { numBlocks: 2, blockSize: 16 };
  const executor = await kind.create({ plan, weights, kv, maxRequests: 1 });
  return { executor, close: () => executor.close() };
}

export function sampleRows(executor: Executor, rows: readonly SampledRow[]): Promise<StepOutput> {
  const logits = Float32Array.from(rows.flatMap((row) => row.logits));
  return executor.sampleRows(logits, samplingOf(rows));
}

export function samplingOf(rows: readonly SampledRow[]): SamplingInput {
  return {
    temperature: Float32Array.from(rows, (row) => row.temperature ?? 1),
    topK: Int32Array.from(rows, (row) => row.topK ?? 0),
    topP: Float32Array.from(rows, (row) => row.topP ?? 1),
    minP: Float32Array.from(rows, (row) => row.minP ?? 0),
    seed: Uint32Array.from(rows.flatMap((row) => [row.seed ?? 0, 0])),
    position: Int32Array.from(rows, (row) => row.position ?? 0),
    ...(rows.some(({ target }) => target !== undefined) && {
      targets: Int32Array.from(rows, (row) => row.target ?? -1),
    }),
    ...(rows.some(({ logprobs }) => logprobs !== undefined) && {
      numLogprobs: Int32Array.from(rows, (row) => row.logprobs ?? -1),
    }),
    ...(rows.some(({ controls }) => controls !== undefined) && {
      controls: makeControls(rows.map((row) => row.controls ?? {})),
    }),
  };
}
