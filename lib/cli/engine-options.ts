import { createEngine } from "../engine/create-engine.js";
import type { Engine, EngineOptions, SamplingOptions } from "../engine/types.js";
import { modelDtypes, type ModelDtype } from "../graph/choose-dtype.js";
import { defined } from "../server/defined.js";
import type { Console } from "./console.js";
import {
  choice,
  flag,
  integer,
  number,
  required,
  text,
  texts,
  UsageError,
  type Option,
} from "./option.js";
import { progressBar } from "./progress-bar.js";

const dtypes = ["auto", ...modelDtypes] as const;

const modelOption: Option<string> = required(
  text({ value: "DIR", about: "The model: a directory in Hugging Face format, or a .gguf file" }),
);

export const dtypeOption: Option<"auto" | ModelDtype | undefined> = choice(
  { value: "D", about: "Type of the weights in memory: auto, f32, bf16, q8 or q4 (default: auto)" },
  dtypes,
);

type DeviceName = NonNullable<EngineOptions["device"]>;

const deviceText = text({
  value: "DEV",
  about:
    "Where to compute: cpu, auto (a GPU where one can be used) or for example cuda:0 (default: cpu)",
});

const deviceOption: Option<DeviceName | undefined> = {
  ...deviceText,
  read: (flag, given) => {
    const name = deviceText.read(flag, given);
    if (name === undefined || isDeviceName(name)) return name;
    throw new UsageError(
      `${flag} takes cpu, auto or for example cuda:0, not ${JSON.stringify(name)}`,
    );
  },
};

function isDeviceName(name: string): name is DeviceName {
  return /^(auto|cpu|cuda:\d{1,3})$/.test(name);
}

export interface EngineValues {
  readonly model: string;
  readonly device: DeviceName | undefined;
  readonly dtype: "auto" | ModelDtype | undefined;
  readonly kvCacheDtype: "auto" | "f32" | "bf16" | "int8" | undefined;
  readonly threads: number | undefined;
}

/** Options of every command that loads a model. */
export const engineOptions: { readonly [K in keyof EngineValues]: Option<EngineValues[K]> } = {
  model: modelOption,
  device: deviceOption,
  dtype: dtypeOption,
  kvCacheDtype: choice(
    { value: "D", about: "Type of the KV cache: auto, f32, bf16 or int8 (default: auto)" },
    ["auto", "f32", "bf16", "int8"],
  ),
  threads: integer(
    { value: "N", about: "CPU workers (default: the number of cores)" },
    { min: 1, max: 1024 },
  ),
};

export interface SamplingValues {
  readonly maxTokens: number | undefined;
  readonly temperature: number | undefined;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
  readonly minP: number | undefined;
  readonly repetitionPenalty: number | undefined;
  readonly presencePenalty: number | undefined;
  readonly frequencyPenalty: number | undefined;
  readonly minTokens: number | undefined;
  readonly seed: number | undefined;
  readonly stop: readonly string[];
  readonly ignoreEos: boolean;
}

/** Options of the commands that generate. */
export const samplingOptions: {
  readonly [K in keyof SamplingValues]: Option<SamplingValues[K]>;
} = {
  maxTokens: integer(
    { value: "N", about: "Tokens to generate at most (default: as many as the context holds)" },
    { min: 1, max: 2 ** 31 - 1 },
  ),
  temperature: number(
    { value: "T", about: "0 always takes the most probable token (default: the model's, or 1)" },
    { min: 0, max: 100 },
  ),
  topK: integer(
    { value: "K", about: "Keep the K most probable tokens; 0 keeps all" },
    { min: 0, max: 2 ** 31 - 1 },
  ),
  topP: number(
    { value: "P", about: "Keep the most probable tokens whose sum reaches P" },
    { min: 0, max: 1, exclusiveMin: true },
  ),
  minP: number(
    { value: "P", about: "Drop tokens less probable than P times the most probable one" },
    { min: 0, max: 1 },
  ),
  repetitionPenalty: number(
    { value: "R", about: "Above 1, make tokens of prompt and output less probable" },
    { min: 0, max: 1e6, exclusiveMin: true },
  ),
  presencePenalty: number(
    { value: "P", about: "Taken from the logit of each token that is in the output" },
    { min: -2, max: 2 },
  ),
  frequencyPenalty: number(
    { value: "F", about: "The same, as often as it is in the output" },
    { min: -2, max: 2 },
  ),
  minTokens: integer(
    { value: "N", about: "Tokens to generate at least (default: 0)" },
    { min: 0, max: 2 ** 31 - 1 },
  ),
  seed: integer(
    { value: "S", about: "The same seed gives the same text (default: random)" },
    { min: 0, max: Number.MAX_SAFE_INTEGER },
  ),
  stop: texts({ value: "TEXT", about: "End before this text" }),
  ignoreEos: flag("Go on after the end-of-sequence token"),
};

export type SamplingRequest = Pick<
  SamplingOptions,
  | "temperature"
  | "topK"
  | "topP"
  | "minP"
  | "repetitionPenalty"
  | "presencePenalty"
  | "frequencyPenalty"
  | "minTokens"
  | "seed"
> & {
  readonly maxTokens?: number;
  readonly stop?: readonly string[];
  readonly ignoreEos?: boolean;
};

/** The part of a request that the sampling options give. */
export function samplingRequest(values: SamplingValues): SamplingRequest {
  const { maxTokens, minTokens, temperature, topK, topP, minP, seed, stop, ignoreEos } = values;
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = values;
  const penalties = { repetitionPenalty, presencePenalty, frequencyPenalty };
  return {
    ...defined({ maxTokens, minTokens, temperature, topK, topP, minP, ...penalties, seed }),
    ...(stop.length > 0 ? { stop } : {}),
    ...(ignoreEos ? { ignoreEos } : {}),
  };
}

/** Loads the model, with a progress bar where there is a terminal; tells why `--device auto` took no GPU. */
export async function loadEngine(
  { model, device, dtype, kvCacheDtype, threads }: EngineValues,
  console: Console,
  signal: AbortSignal,
): Promise<Engine> {
  const bar = progressBar(console.errorTty);
  const onProgress: EngineOptions["onProgress"] = (progress) => bar.show(progress);
  try {
    const kvCache = defined({ dtype: kvCacheDtype });
    const options = { ...defined({ device, dtype, threads }), kvCache };
    const engine = await createEngine({ model, signal, onProgress, ...options });
    for (const { backend, reason } of engine.info.passedOver) {
      console.warn(`pagoda: ${backend} is not used: ${reason}`);
    }
    return engine;
  } finally {
    bar.clear();
  }
}
