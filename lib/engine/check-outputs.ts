import { checkInteger, checkNumber, checkObject } from "../arguments.js";
import { argumentError } from "../errors.js";
import type { BeamOptions, GenerateRequest } from "./types.js";

/** How many outputs a request has, and how they are found. */
export interface CheckedOutputs {
  readonly n: number;
  /** At least `n`. */
  readonly bestOf: number;
  /** Undefined: tokens are drawn. */
  readonly beam: Required<BeamOptions> | undefined;
}

export const maxOutputs = 128;
export const maxBeamWidth = 64;
/** Of the length penalty's absolute value. */
export const maxLengthPenalty = 10;

/** What a beam search does not look at. */
const drawingFields = [
  "bestOf",
  "temperature",
  "topK",
  "topP",
  "minP",
  "typicalP",
  "seed",
  "presencePenalty",
  "frequencyPenalty",
  "repetitionPenalty",
  "logitBias",
  "allowedTokenIds",
  "badWords",
  "dry",
  "xtc",
  "stop",
] as const satisfies readonly (keyof GenerateRequest)[];

/**
 * Checks `n`, `bestOf` and `beam`. The other fields are only asked whether they are there.
 *
 * @throws ERR_ARGUMENT
 */
export function checkOutputs(request: Omit<GenerateRequest, "prompt">): CheckedOutputs {
  const { n: count = 1, bestOf: candidates, beam: options } = request;
  const n = checkInteger("n", count, { min: 1, max: maxOutputs });
  if (options !== undefined) {
    const beam = checkBeam(options, n);
    checkNothingDrawn(request);
    return { n, bestOf: n, beam };
  }
  const bestOf =
    candidates === undefined ? n : checkInteger("bestOf", candidates, { min: n, max: maxOutputs });
  return { n, bestOf, beam: undefined };
}

function checkBeam(options: BeamOptions, n: number): Required<BeamOptions> {
  checkObject("beam", options);
  const { width, lengthPenalty = 1, earlyStopping = false } = options;
  const penaltyRange = { min: -maxLengthPenalty, max: maxLengthPenalty };
  if (typeof earlyStopping !== "boolean" && earlyStopping !== "never") {
    throw argumentError("beam.earlyStopping", 'true, false or "never"', earlyStopping);
  }
  return {
    width: checkInteger("beam.width", width, { min: n, max: maxBeamWidth }),
    lengthPenalty: checkNumber("beam.lengthPenalty", lengthPenalty, penaltyRange),
    earlyStopping,
  };
}

function checkNothingDrawn(request: Omit<GenerateRequest, "prompt">): void {
  for (const field of drawingFields) {
    const value = request[field];
    if (value !== undefined) throw argumentError(field, "nothing beside `beam`", value);
  }
}
