import { PagodaError } from "../../errors.js";

/** ERR_MODEL_UNSUPPORTED for a feature of a file. */
export function unsupportedInFile(
  file: string,
  feature: string,
  supported?: readonly string[],
): PagodaError {
  const known = supported === undefined ? "" : `; supported: ${supported.join(", ")}`;
  return new PagodaError("ERR_MODEL_UNSUPPORTED", `${file}: ${feature} is not supported${known}`, {
    details: { file, feature, ...(supported && { supported }) },
  });
}
