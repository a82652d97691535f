import type { Lists, SamplingControls } from "../../lib/engine/step.js";

/** The controls of one row; what is not set is neutral. */
export interface RowControls {
  readonly allowed?: readonly number[];
  readonly banned?: readonly number[];
  /** Id to bias, ids in increasing order. */
  readonly biased?: ReadonlyMap<number, number>;
  readonly history?: readonly number[];
  readonly numPromptTokens?: number;
  readonly repetitionPenalty?: number;
  readonly frequencyPenalty?: number;
  readonly presencePenalty?: number;
  /** Multiplier, base, allowed length, range. */
  readonly dry?: readonly [number, number, number, number];
  readonly dryBreakers?: readonly number[];
  readonly typicalP?: number;
  /** Probability, threshold. */
  readonly xtc?: readonly [number, number];
}

export function makeControls(rows: readonly RowControls[]): SamplingControls {
  const floats = (value: (row: RowControls) => number) => Float32Array.from(rows, value);
  const ints = (value: (row: RowControls) => number) => Int32Array.from(rows, value);
  const biases = rows.flatMap(({ biased }) => [...(biased?.values() ?? [])]);
  return {
    allowed: lists(rows.map((row) => row.allowed ?? [])),
    banned: lists(rows.map((row) => row.banned ?? [])),
    biased: lists(rows.map((row) => [...(row.biased?.keys() ?? [])])),
    biases: Float32Array.from(biases),
    history: lists(rows.map((row) => row.history ?? [])),
    numPromptTokens: ints((row) => row.numPromptTokens ?? 0),
    repetitionPenalty: floats((row) => row.repetitionPenalty ?? 1),
    frequencyPenalty: floats((row) => row.frequencyPenalty ?? 0),
    presencePenalty: floats((row) => row.presencePenalty ?? 0),
    dryMultiplier: floats((row) => row.dry?.[0] ?? 0),
    dryBase: floats((row) => row.dry?.[1] ?? 1),
    dryAllowedLength: ints((row) => row.dry?.[2] ?? 1),
    dryRange: ints((row) => row.dry?.[3] ?? 0),
    dryBreakers: lists(rows.map((row) => row.dryBreakers ?? [])),
    typicalP: floats((row) => row.typicalP ?? 1),
    xtcProbability: floats((row) => row.xtc?.[0] ?? 0),
    xtcThreshold: floats((row) => row.xtc?.[1] ?? 0),
  };
}

export function lists(rows: readonly (readonly number[])[]): Lists {
  const offsets = new Int32Array(rows.length + 1);
  for (const [i, row] of rows.entries()) offsets[i + 1] = offsets[i]! + row.length;
  return { values: Int32Array.from(rows.flat()), offsets };
}
