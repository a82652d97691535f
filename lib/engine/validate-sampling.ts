import { argumentError } from "../errors.js";
import { checkLength, checkRange, maxInt32 } from "./check-arrays.js";
import { maxStepLogprobs, type Lists, type SamplingControls, type SamplingInput } from "./step.js";

const maxTemperature = 1e6;
/** Smaller shares and penalties could become 0 or overflow in float32. */
const tiny = 1e-30;
const huge = 1e30;

/**
 * Checks the sampling parameters of `outputs` rows; the same as in native/sampling.cc.
 * @throws PagodaError ERR_ARGUMENT that names the array
 */
export function validateSampling(
  sampling: SamplingInput,
  outputs: number,
  vocabSize: number,
): void {
  const check = rowChecker(outputs);
  check("temperature", sampling.temperature, Float32Array, 0, maxTemperature);
  check("topK", sampling.topK, Int32Array, 0, maxInt32);
  check("topP", sampling.topP, Float32Array, tiny, 1);
  check("minP", sampling.minP, Float32Array, 0, 1);
  check("position", sampling.position, Int32Array, 0, maxInt32);
  checkLength("sampling.seed", sampling.seed, 2 * outputs);
  const { targets, numLogprobs, controls } = sampling;
  if (targets !== undefined) check("targets", targets, Int32Array, -1, vocabSize - 1);
  if (numLogprobs !== undefined) check("numLogprobs", numLogprobs, Int32Array, -1, maxStepLogprobs);
  if (controls !== undefined) validateControls(controls, outputs, vocabSize);
}

type RowChecker = (
  name: string,
  values: Float32Array | Int32Array,
  type: typeof Float32Array | typeof Int32Array,
  min: number,
  max: number,
) => void;

function rowChecker(outputs: number, prefix = "sampling"): RowChecker {
  return (name, values, type, min, max) => {
    const path = `${prefix}.${name}`;
    if (!(values instanceof type)) throw argumentError(path, `a ${type.name}`, values);
    checkLength(path, values, outputs);
    checkRange(path, values, min, max);
  };
}

function validateControls(controls: SamplingControls, outputs: number, vocabSize: number): void {
  validateAllLists(controls, outputs, vocabSize);
  const check = rowChecker(outputs, "sampling.controls");
  check("numPromptTokens", controls.numPromptTokens, Int32Array, 0, maxInt32);
  const { offsets } = controls.history;
  for (const [row, count] of controls.numPromptTokens.entries()) {
    const length = offsets[row + 1]! - offsets[row]!;
    const name = `sampling.controls.numPromptTokens[${row}]`;
    if (count > length) throw argumentError(name, `at most ${length}`, count);
  }
  check("repetitionPenalty", controls.repetitionPenalty, Float32Array, tiny, huge);
  check("frequencyPenalty", controls.frequencyPenalty, Float32Array, -100, 100);
  check("presencePenalty", controls.presencePenalty, Float32Array, -100, 100);
  check("dryMultiplier", controls.dryMultiplier, Float32Array, 0, 1e6);
  check("dryBase", controls.dryBase, Float32Array, 1, 1e6);
  check("dryAllowedLength", controls.dryAllowedLength, Int32Array, 1, maxInt32);
  check("dryRange", controls.dryRange, Int32Array, 0, maxInt32);
  check("typicalP", controls.typicalP, Float32Array, tiny, 1);
  check("xtcProbability", controls.xtcProbability, Float32Array, 0, 1);
  check("xtcThreshold", controls.xtcThreshold, Float32Array, 0, 1);
}

function validateAllLists(controls: SamplingControls, outputs: number, vocabSize: number): void {
  const { allowed, banned, biased, history, dryBreakers, biases } = controls;
  const lists = { allowed, banned, biased, history, dryBreakers };
  for (const [name, list] of Object.entries(lists)) {
    checkLists(`sampling.controls.${name}`, list, outputs, vocabSize);
  }
  checkIncreasing("sampling.controls.allowed", allowed);
  checkIncreasing("sampling.controls.biased", biased);
  checkIncreasing("sampling.controls.dryBreakers", dryBreakers);
  checkLength("sampling.controls.biases", biases, biased.values.length);
  checkRange("sampling.controls.biases", biases, -huge, huge);
}

function checkLists(name: string, lists: Lists, outputs: number, vocabSize: number): void {
  const { values, offsets } = lists;
  for (const [part, array] of Object.entries({ values, offsets })) {
    if (!(array instanceof Int32Array)) throw argumentError(`${name}.${part}`, "int32", array);
  }
  checkLength(`${name}.offsets`, offsets, outputs + 1);
  checkRange(`${name}.offsets`, offsets.subarray(0, 1), 0, 0);
  for (let row = 0; row < outputs; row++) {
    checkRange(`${name}.offsets`, offsets.subarray(row + 1, row + 2), offsets[row]!, values.length);
  }
  if (offsets[outputs] !== values.length) {
    throw argumentError(`${name}.offsets`, `${values.length} as its last element`, offsets);
  }
  checkRange(`${name}.values`, values, 0, vocabSize - 1);
}

function checkIncreasing(name: string, { values, offsets }: Lists): void {
  for (let row = 0; row + 1 < offsets.length; row++) {
    for (let i = offsets[row]! + 1; i < offsets[row + 1]!; i++) {
      if (values[i - 1]! < values[i]!) continue;
      throw argumentError(`${name}.values[${i}]`, `more than ${values[i - 1]}`, values[i]);
    }
  }
}
