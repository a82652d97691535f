import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { createEngine, type Engine, type EngineOptions, type GenerateRequest } from "pagoda-llm";
import { startServer, type RunningServer, type ServerOptions } from "pagoda-llm/openai";

/** A small trained model that is part of the repository. */
export const demoModel: string = fileURLToPath(new URL("../../models/demo", import.meta.url));

/** Another one: latent attention and experts. */
export const demoMlaModel: string = fileURLToPath(
  new URL("../../models/demo-mla", import.meta.url),
);

export interface Demo extends AsyncDisposable {
  readonly engine: Engine;
  readonly server: RunningServer;
  /** OpenAI's own client, without retries. */
  readonly client: OpenAI;
}

/** The built package: the demo model, served on a free port of 127.0.0.1. */
export async function serveDemo(
  options: Omit<EngineOptions, "model"> = {},
  serverOptions: ServerOptions = {},
): Promise<Demo> {
  const engine = await createEngine({ model: demoModel, threads: 2, ...options });
  const server = await startServer(engine, { port: 0, ...serverOptions });
  const client = new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries: 0 });
  return {
    engine,
    server,
    client,
    [Symbol.asyncDispose]: async () => {
      await server.close(0);
      await engine.close();
    },
  };
}

/** All chunks of a stream. */
export async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const chunks: T[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/** Waits until nothing runs and every block is free. */
export async function untilIdle(engine: Engine, timeoutMs = 5000): Promise<void> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const { running, waiting, freeBlocks, totalBlocks } = engine.stats();
    if (running === 0 && waiting === 0 && freeBlocks === totalBlocks) return;
    if (Date.now() > end) throw new Error(`Not idle: ${JSON.stringify(engine.stats())}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Requests that differ in length, sampling and stop conditions. */
export function mixedRequests(count: number): GenerateRequest[] {
  const prompts = [
    "Once upon a time",
    "One sunny day, a boy",
    "27 + 48 =",
    "The colour of the sky",
  ];
  return Array.from({ length: count }, (_, i) => ({
    prompt: prompts[i % prompts.length]!.repeat(1 + (i % 3)),
    maxTokens: 20 + 7 * (i % 5),
    ignoreEos: i % 2 === 0,
    seed: i,
    ...(i % 4 === 0 ? { temperature: 0 } : { temperature: 0.5 + (i % 3) / 4 }),
    ...(i % 5 === 1 && { topK: 5 }),
    ...(i % 5 === 2 && { topP: 0.8 }),
    ...(i % 5 === 3 && { minP: 0.05 }),
    ...(i % 6 === 5 && { stop: [". "] }),
  }));
}

/** All that a stream gives. */
export async function streamed(
  engine: Engine,
  request: GenerateRequest,
): Promise<{ text: string; tokenIds: number[] }> {
  let text = "";
  const tokenIds: number[] = [];
  for await (const delta of engine.generate(request)) {
    text += delta.text;
    tokenIds.push(...delta.tokenIds);
  }
  return { text, tokenIds };
}

/** A JSON file of test/fixtures. */
export async function fixture<T>(name: string): Promise<T> {
  const path = new URL(`../fixtures/${name}.json`, import.meta.url);
  return JSON.parse(await readFile(path, "utf8")) as T;
}

/** What Hugging Face's code makes of a prompt and its own greedy output, in float64. */
export interface Reference {
  readonly promptTokenIds: readonly number[];
  readonly outputTokenIds: readonly number[];
  /** Of each token after the first. */
  readonly logprobs: readonly number[];
  readonly logitsAfterPrompt: readonly number[];
}

/** The largest difference of a log probability, or of a logit after the prompt. */
export async function logitError(engine: Engine, expected: Reference): Promise<number> {
  const { promptTokenIds, outputTokenIds } = expected;
  const prompt = [...promptTokenIds, ...outputTokenIds];
  const request = { prompt, maxTokens: 1, temperature: 0, promptLogprobs: 0 };
  const { promptLogprobs } = await engine.generate(request);
  const logprobs = promptLogprobs!.slice(1).map((found) => found!.logprob);
  const logits = await engine.logits(promptTokenIds);
  return Math.max(
    largestDifference(logprobs, expected.logprobs),
    largestDifference([...logits.slice(-engine.info.model.vocabSize)], expected.logitsAfterPrompt),
  );
}

function largestDifference(actual: readonly number[], expected: readonly number[]): number {
  if (actual.length !== expected.length) return Infinity;
  return Math.max(...actual.map((x, i) => Math.abs(x - expected[i]!)));
}
