import { maxBeamWidth, maxLengthPenalty, maxOutputs } from "../engine/check-outputs.js";
import type { BeamOptions, GenerateRequest } from "../engine/types.js";
import { defined } from "../server/defined.js";
import { choice, integer, number, UsageError, type Option } from "./option.js";

export interface OutputValues {
  readonly n: number | undefined;
  readonly bestOf: number | undefined;
  readonly beamWidth: number | undefined;
  readonly lengthPenalty: number | undefined;
  readonly earlyStopping: "true" | "false" | "never" | undefined;
}

/** Options about how many outputs there are, and about a search for the most probable ones. */
export const outputOptions: { readonly [K in keyof OutputValues]: Option<OutputValues[K]> } = {
  n: integer(
    { value: "N", about: "Outputs of the one prompt (default: 1)" },
    { min: 1, max: maxOutputs },
  ),
  bestOf: integer(
    { value: "N", about: "Generate so many outputs, print the --n most probable ones" },
    { min: 1, max: maxOutputs },
  ),
  beamWidth: integer(
    { value: "W", about: "Beam search for the most probable outputs instead of drawing them" },
    { min: 1, max: maxBeamWidth },
  ),
  lengthPenalty: number(
    { value: "L", about: "Of a beam search: above 0 favours long outputs (default: 1)" },
    { min: -maxLengthPenalty, max: maxLengthPenalty },
  ),
  earlyStopping: choice(
    { value: "WHEN", about: "Of a beam search: true, false or never (default: false)" },
    ["true", "false", "never"],
  ),
};

/** The part of a request that these options give. */
export function outputRequest(
  values: OutputValues,
): Pick<GenerateRequest, "n" | "bestOf" | "beam"> {
  const { n, bestOf, beamWidth, lengthPenalty, earlyStopping } = values;
  if (beamWidth !== undefined) {
    const how = defined({ lengthPenalty, earlyStopping: stopping(earlyStopping) });
    return defined({ n, bestOf, beam: { width: beamWidth, ...how } });
  }
  if (lengthPenalty !== undefined) throw new UsageError("--length-penalty needs --beam-width");
  if (earlyStopping !== undefined) throw new UsageError("--early-stopping needs --beam-width");
  return defined({ n, bestOf });
}

function stopping(when: OutputValues["earlyStopping"]): BeamOptions["earlyStopping"] | undefined {
  return when === undefined || when === "never" ? when : when === "true";
}
