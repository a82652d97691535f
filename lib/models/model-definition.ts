import { compile, type CompileOptions } from "../graph/compile.js";
import { createGraph, type Graph, type KeptTensors, type Tensor } from "../graph/graph.js";
import type { Plan } from "../graph/plan.js";
import type { DecoderConfig } from "./fields.js";

/** A model whose config was read and checked: what an engine needs to know of it, and how to build its graph. */
export interface ModelDefinition {
  /** Hugging Face architecture name, e.g. `LlamaForCausalLM`. */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly maxPositionEmbeddings: number;
  /** Adds the model's steps to an empty graph and returns the logits `[outputs, vocabSize]`. */
  build(graph: Graph): Tensor;
}

/** What a family makes of a config: the fields it read, and its graph. */
export interface Family {
  readonly config: DecoderConfig;
  /** As {@link ModelDefinition.build}. */
  readonly build: (graph: Graph) => Tensor;
}

export interface ModelCompileOptions extends CompileOptions {
  /** Checkpoint tensors that keep these types in memory, whatever `dtype` is. @default none */
  readonly kept?: KeptTensors;
  /** As `EngineOptions.mlaExpandFrom`. @default 0 */
  readonly mlaExpandFrom?: number;
  /** As `EngineOptions.maxModelLen`. @default `maxPositionEmbeddings` of the model */
  readonly maxModelLen?: number;
}

/** The plan of a model: its graph with `sample` at the end, compiled. */
export function compileModel(model: ModelDefinition, options: ModelCompileOptions): Plan {
  const { kept, mlaExpandFrom, maxModelLen = model.maxPositionEmbeddings } = options;
  const graph = createGraph({ kept, mlaExpandFrom, maxModelLen });
  graph.sample(model.build(graph));
  return compile(graph, options);
}
