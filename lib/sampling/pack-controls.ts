import type { Lists, SamplingControls, SamplingInput } from "../engine/step.js";
import { neutralControls, type LogitsControls } from "./logits-controls.js";
import type { SamplingParams } from "./sampling-params.js";

/** What packing needs of a sequence whose next token is drawn. */
export interface SampledSequence {
  /** Prompt and output so far. */
  readonly tokenIds: Int32Array;
  readonly promptLength: number;
  readonly sampling: SamplingParams;
}

const noTokens = new Int32Array(0);

/** The parts of a step's sampling arrays that few steps have: none where no row uses them. */
export function packOptional(
  rows: readonly SampledSequence[],
): Pick<SamplingInput, "controls" | "numLogprobs"> {
  const hasControls = rows.some(({ sampling }) => sampling.controls !== undefined);
  const hasLogprobs = rows.some(({ sampling }) => sampling.numLogprobs !== undefined);
  return {
    ...(hasControls && { controls: packControls(rows) }),
    ...(hasLogprobs && {
      numLogprobs: Int32Array.from(rows, ({ sampling }) => sampling.numLogprobs ?? -1),
    }),
  };
}

function packControls(rows: readonly SampledSequence[]): SamplingControls {
  const all = rows.map(({ sampling }) => sampling.controls ?? neutralControls);
  const histories = rows.map((row, i) => historyOf(row, all[i]!));
  const floats = (value: (c: LogitsControls) => number) => Float32Array.from(all, value);
  const ints = (value: (c: LogitsControls) => number) => Int32Array.from(all, value);
  return {
    allowed: toLists(all.map((c) => c.allowedTokenIds)),
    banned: toLists(rows.map((row, i) => bannedNow(row, all[i]!))),
    biased: toLists(all.map((c) => c.logitBias.ids)),
    biases: Float32Array.from(all.flatMap((c) => [...c.logitBias.values])),
    history: toLists(histories.map(({ tokens }) => tokens)),
    numPromptTokens: Int32Array.from(histories, ({ numPromptTokens }) => numPromptTokens),
    repetitionPenalty: floats((c) => c.repetitionPenalty),
    frequencyPenalty: floats((c) => c.frequencyPenalty),
    presencePenalty: floats((c) => c.presencePenalty),
    dryMultiplier: floats((c) => c.dry.multiplier),
    dryBase: floats((c) => c.dry.base),
    dryAllowedLength: ints((c) => c.dry.allowedLength),
    dryRange: ints((c) => c.dry.range),
    dryBreakers: toLists(all.map((c) => c.dry.breakers)),
    typicalP: floats((c) => c.typicalP),
    xtcProbability: floats((c) => c.xtc.probability),
    xtcThreshold: floats((c) => c.xtc.threshold),
  };
}

/** The tokens that the row's penalties look at: as few as they need, since they are copied in every step. */
function historyOf(
  { tokenIds, promptLength }: SampledSequence,
  { repetitionPenalty, frequencyPenalty, presencePenalty, dry }: LogitsControls,
): { readonly tokens: Int32Array; readonly numPromptTokens: number } {
  if (repetitionPenalty !== 1 || dry.multiplier > 0) {
    return { tokens: tokenIds, numPromptTokens: promptLength };
  }
  const needsOutput = frequencyPenalty !== 0 || presencePenalty !== 0;
  return { tokens: needsOutput ? tokenIds.subarray(promptLength) : noTokens, numPromptTokens: 0 };
}

/** What may not be drawn next: what would end the output too early, and the last token of bad words. */
function bannedNow(
  { tokenIds, promptLength }: SampledSequence,
  { badWords, minTokens, minTokenIds }: LogitsControls,
): ArrayLike<number> {
  const output = tokenIds.subarray(promptLength);
  const banned = output.length < minTokens ? [...minTokenIds] : [];
  for (const word of badWords) if (isBegun(word, output)) banned.push(word.at(-1)!);
  return banned;
}

/** Whether the output ends with all but the last token of the word. */
function isBegun(word: Int32Array, output: Int32Array): boolean {
  const start = output.length - (word.length - 1);
  if (start < 0) return false;
  for (let i = 0; i < word.length - 1; i++) if (output[start + i] !== word[i]) return false;
  return true;
}

function toLists(rows: readonly ArrayLike<number>[]): Lists {
  const offsets = new Int32Array(rows.length + 1);
  for (const [i, row] of rows.entries()) offsets[i + 1] = offsets[i]! + row.length;
  const values = new Int32Array(offsets[rows.length]!);
  for (const [i, row] of rows.entries()) values.set(row, offsets[i]);
  return { values, offsets };
}
