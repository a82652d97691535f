import type { WeightDtype } from "./dtypes.js";
import type { GraphWeight } from "./weight-table.js";

/** What the weights of a model become in memory; `q8` and `q4` are rounded as they are loaded. */
export type ModelDtype = "f32" | "bf16" | "q8" | "q4";

export const modelDtypes: readonly ModelDtype[] = ["f32", "bf16", "q8", "q4"];

/** Gives each matrix and table its type. `isVocabulary`: it is an embedding or the output head. Vectors are not asked for. */
export type ChooseDtype = (weight: GraphWeight, isVocabulary: boolean) => WeightDtype;

/**
 * `q8`: 8 bits, a scale for 32 columns. `q4`: 4 bits, a scale and a minimum for 32 columns, these in turn of 6 bits for 256
 * columns (or of 16 bits, where 256 does not divide the columns); embeddings and the output head stay at 8 bits, since
 * the error of the head goes into the logits undamped. Columns that 32 does not divide: bf16.
 */
export function chooseDtype(dtype: ModelDtype): ChooseDtype {
  if (dtype === "f32" || dtype === "bf16") return () => dtype;
  return ({ cols }, isVocabulary) => {
    if (cols % 32 !== 0) return "bf16";
    if (dtype === "q8" || isVocabulary) return "q8_0";
    return cols % 256 === 0 ? "q4_k" : "q4_1";
  };
}
