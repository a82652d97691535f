import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { createEngine, type Engine, type EngineOptions } from "pagoda-llm";
import { startServer, type RunningServer, type ServerOptions } from "pagoda-llm/openai";

/** A small trained model that is part of the repository. */
export const demoModel: string = fileURLToPath(new URL("../../models/demo", import.meta.url));

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
