import type { GenerateRequest } from "../engine/types.js";
import { maxLogprobs } from "../sampling/sampling-params.js";
import { defined } from "./defined.js";
import type { Fields } from "./fields.js";
import { outputFields, readOutputs } from "./output-fields.js";
import { readRepetition, repetitionFields } from "./repetition-fields.js";
import { readEnding, readSampling, samplingFields } from "./sampling-fields.js";
import { readScheduling, schedulingFields } from "./scheduling-fields.js";

/** The fields that {@link readGeneration} reads. */
export const generationFields: readonly string[] = [
  ...outputFields,
  ...samplingFields,
  ...repetitionFields,
  ...schedulingFields,
  "prompt_logprobs",
];

type GenerationFields = Omit<
  GenerateRequest,
  "prompt" | "signal" | "maxTokens" | "logprobs" | "addSpecialTokens"
>;

/** What both endpoints say about the outputs of a prompt. Absent fields stay absent. */
export function readGeneration(fields: Fields): GenerationFields {
  const sampling = { ...readSampling(fields), ...readRepetition(fields) };
  const outputs = readOutputs(fields);
  return {
    ...outputs,
    ...(outputs.beam === undefined && sampling), // neutral beside a beam search
    ...readEnding(fields),
    ...readScheduling(fields),
    ...defined({ promptLogprobs: fields.integer("prompt_logprobs", { min: 0, max: maxLogprobs }) }),
  };
}
