import type { Generation, GeneratedOutput } from "../engine/types.js";
import { defineCommand, type Command } from "./command.js";
import { interruptible, type Console } from "./console.js";
import { engineOptions, loadEngine, samplingOptions, samplingRequest } from "./engine-options.js";
import { flag, integers, text, UsageError } from "./option.js";
import { outputOptions, outputRequest } from "./output-options.js";

export const generate: Command = defineCommand({
  name: "generate",
  about: "Continue a prompt and print the text",
  usage: "generate --model DIR (--prompt TEXT | --prompt-ids 1,2,3) [options]",
  options: {
    model: engineOptions.model,
    prompt: text({ value: "TEXT", about: "The prompt as text" }),
    promptIds: integers(
      { value: "IDS", about: "The prompt as token ids, separated by commas" },
      { min: 0, max: 2 ** 31 - 1 },
    ),
    ...samplingOptions,
    ...outputOptions,
    device: engineOptions.device,
    dtype: engineOptions.dtype,
    kvCacheDtype: engineOptions.kvCacheDtype,
    threads: engineOptions.threads,
    json: flag("Print one JSON object with text, token ids and usage instead"),
  },
  run: async (values, console) => {
    const prompt = onePrompt(values.prompt, values.promptIds);
    const request = { prompt, ...samplingRequest(values), ...outputRequest(values) };
    const print = values.json ? printJson : (values.n ?? 1) > 1 ? printOutputs : printText;
    return interruptible(console, async (signal) => {
      const engine = await loadEngine(values, console, signal);
      try {
        await print(engine.generate({ ...request, signal }), console);
        return 0;
      } finally {
        await engine.close();
      }
    });
  },
});

function onePrompt(
  text: string | undefined,
  ids: readonly number[] | undefined,
): string | readonly number[] {
  if (text !== undefined && ids !== undefined) {
    throw new UsageError("Give either --prompt or --prompt-ids, not both");
  }
  const prompt = text ?? ids;
  if (prompt === undefined) throw new UsageError("--prompt TEXT or --prompt-ids IDS is missing");
  return prompt;
}

async function printText(generation: Generation, console: Console): Promise<void> {
  for await (const delta of generation) {
    await console.write(delta.text);
    if (console.outputClosed.aborted) return;
  }
  await console.write("\n");
}

/** Several outputs, each under a line that tells which one it is. */
async function printOutputs(generation: Generation, console: Console): Promise<void> {
  const { outputs } = await generation;
  const parts = outputs.map(
    (output, i) => `${heading(output, i, outputs.length)}\n${output.text}\n`,
  );
  await console.write(parts.join("\n"));
}

function heading({ score }: GeneratedOutput, index: number, count: number): string {
  const rank = score === undefined ? "" : `, score ${score.toFixed(4)}`;
  return `--- ${index + 1} of ${count}${rank} ---`;
}

async function printJson(generation: Generation, console: Console): Promise<void> {
  await console.write(`${JSON.stringify(await generation)}\n`);
}
