import { once } from "node:events";
import { createServer } from "node:net";
import type { Engine } from "../engine/types.js";
import { startServer, type RunningServer } from "../server/index.js";
import { defineCommand, type Command } from "./command.js";
import { interruptible, type Console } from "./console.js";
import { engineOptions, loadEngine } from "./engine-options.js";
import { errorLine } from "./error-line.js";
import { integer, text, UsageError, withDefault } from "./option.js";

/** How long running answers may take to end after SIGTERM or SIGINT. */
const graceMs = 10_000;

export const serve: Command = defineCommand({
  name: "serve",
  about: "Serve a model over HTTP, compatible with OpenAI's API",
  usage: "serve --model DIR [--host HOST] [--port PORT] [options]",
  options: {
    model: engineOptions.model,
    host: withDefault(text({ value: "HOST", about: "Address to listen on" }), "127.0.0.1"),
    port: withDefault(
      integer({ value: "PORT", about: "Port; 0 picks a free one" }, { min: 0, max: 65_535 }),
      8000,
    ),
    device: engineOptions.device,
    dtype: engineOptions.dtype,
    kvCacheDtype: engineOptions.kvCacheDtype,
    threads: engineOptions.threads,
  },
  run: async (values, console) => {
    const { host, port } = values;
    await checkAddress(host, port);
    return interruptible(console, async (signal) => {
      const engine = await loadEngine(values, console, signal);
      try {
        const onError = (error: unknown): void => console.warn(errorLine(error));
        const server = await startServer(engine, { host, port, onError }).catch(
          explain(host, port),
        );
        await console.write(greeting(server, engine));
        await stopped(signal);
        await shutDown(server, console);
        return 0;
      } finally {
        await engine.close();
      }
    });
  },
});

/** A port in use is told before minutes of loading, not after. */
async function checkAddress(host: string, port: number): Promise<void> {
  if (host === "") throw new UsageError("--host HOST is empty");
  const probe = createServer();
  try {
    probe.listen(port, host);
    await once(probe, "listening");
  } catch (error) {
    explain(host, port)(error);
  } finally {
    probe.close();
  }
}

/** Why the system refuses an address, in words. */
function explain(host: string, port: number): (error: unknown) => never {
  return (error) => {
    const { code } = error as NodeJS.ErrnoException;
    const hints: Record<string, string> = {
      EADDRINUSE: `Port ${port} of ${host} is in use; choose another with --port (0 picks a free one)`,
      EACCES: `Port ${port} of ${host} needs more rights; choose one above 1023 with --port`,
      EADDRNOTAVAIL: `--host ${host} is not an address of this machine`,
      ENOTFOUND: `--host ${host} is not known`,
    };
    const hint = hints[code ?? ""];
    if (hint === undefined) throw error;
    throw Object.assign(new Error(hint, { cause: error }), { code });
  };
}

function greeting(server: RunningServer, engine: Engine): string {
  const { name, hasChatTemplate } = engine.info.model;
  const path = hasChatTemplate ? "/v1/chat/completions" : "/v1/completions";
  const request = hasChatTemplate
    ? { model: name, messages: [{ role: "user", content: "Hello" }] }
    : { model: name, prompt: engine.tokenizer === undefined ? [1, 2, 3] : "Hello" };
  const body = JSON.stringify(request).replaceAll("'", String.raw`'\''`);
  return [
    `Serving ${name} on ${server.url}`,
    `curl ${server.url}${path} -H 'Content-Type: application/json' -d '${body}'`,
    "",
  ].join("\n");
}

function stopped(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

async function shutDown(server: RunningServer, console: Console): Promise<void> {
  console.warn("Shutting down: running answers may end, new requests are refused");
  await server.close(graceMs);
}
