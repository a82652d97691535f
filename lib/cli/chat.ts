import { createInterface, type Interface } from "node:readline";
import type { Engine } from "../engine/types.js";
import { PagodaError } from "../errors.js";
import type { ChatMessage } from "../loading/chat.js";
import { defineCommand, type Command } from "./command.js";
import { interruptible, type Console } from "./console.js";
import {
  engineOptions,
  loadEngine,
  samplingOptions,
  samplingRequest,
  type SamplingRequest,
} from "./engine-options.js";
import { errorLine } from "./error-line.js";
import { text } from "./option.js";

export const chat: Command = defineCommand({
  name: "chat",
  about: "Talk with a model",
  usage: "chat --model DIR [--system TEXT] [options]",
  options: {
    model: engineOptions.model,
    system: text({ value: "TEXT", about: "What the model is told before the conversation" }),
    ...samplingOptions,
    device: engineOptions.device,
    dtype: engineOptions.dtype,
    kvCacheDtype: engineOptions.kvCacheDtype,
    threads: engineOptions.threads,
  },
  run: async (values, console) => {
    let engine: Engine | undefined;
    const exitCode = await interruptible(console, async (signal) => {
      engine = await loadEngine(values, console, signal);
      return 0;
    });
    if (engine === undefined) return exitCode;
    try {
      return await new Conversation(engine, console, values.system, samplingRequest(values)).run();
    } finally {
      await engine.close();
    }
  },
});

const hint = "/reset begins anew, /exit ends, Ctrl-C stops an answer.\n";

/** Codes after which no further answer can be had. */
const fatalCodes: ReadonlySet<string> = new Set([
  "ERR_BACKEND_FAILED",
  "ERR_CLOSED",
  "ERR_TOKENIZER_MISSING",
]);

/** Reads lines until the end of the input, answers each, and keeps what was said. */
class Conversation {
  readonly #engine: Engine;
  readonly #console: Console;
  readonly #system: readonly ChatMessage[];
  readonly #sampling: SamplingRequest;
  readonly #isInteractive: boolean;
  #messages: ChatMessage[];
  /** Of the answer that is being generated. */
  #answering: AbortController | undefined;
  #hasFailed = false;

  constructor(
    engine: Engine,
    console: Console,
    system: string | undefined,
    sampling: SamplingRequest,
  ) {
    this.#engine = engine;
    this.#console = console;
    this.#system = system === undefined ? [] : [{ role: "system", content: system }];
    this.#sampling = sampling;
    this.#isInteractive = console.stdin.isTTY === true && console.isTty;
    this.#messages = [...this.#system];
  }

  /** Resolves with the exit code: 1 when a script's line could not be answered. */
  async run(): Promise<number> {
    const lines = this.#openLines();
    const release = this.#console.onInterrupt((exitCode) => this.#interrupt(lines, exitCode));
    if (this.#isInteractive) await this.#console.write(hint);
    lines.prompt();
    try {
      for await (const line of lines) {
        const said = line.trim();
        if (said === "/exit" || this.#console.outputClosed.aborted) break;
        if (said === "/reset") this.#messages = [...this.#system];
        else if (said !== "") await this.#answer(said);
        lines.prompt();
      }
    } finally {
      release();
      lines.close();
    }
    return this.#hasFailed && !this.#isInteractive ? 1 : 0;
  }

  #openLines(): Interface {
    const input = this.#console.stdin;
    if (!this.#isInteractive) return createInterface({ input, terminal: false, prompt: "" });
    const lines = createInterface({ input, output: process.stdout, prompt: "> " });
    // While a terminal's line is edited, Ctrl-C is a key and no signal.
    return lines.on("SIGINT", () => this.#interrupt(lines, 130));
  }

  /** The first interrupt stops the answer; one without an answer to stop ends the program. */
  #interrupt(lines: Interface, exitCode: number): void {
    if (this.#answering !== undefined && !this.#answering.signal.aborted) {
      this.#answering.abort();
    } else if (this.#answering === undefined && this.#isInteractive) {
      lines.close();
    } else {
      process.exit(exitCode);
    }
  }

  async #answer(said: string): Promise<void> {
    const messages: ChatMessage[] = [...this.#messages, { role: "user", content: said }];
    const answering = new AbortController();
    this.#answering = answering;
    let answer = "";
    try {
      const { signal } = answering;
      for await (const delta of this.#engine.chat({ messages, ...this.#sampling, signal })) {
        answer += delta.text;
        await this.#console.write(delta.text);
        if (this.#console.outputClosed.aborted) break;
      }
    } catch (error) {
      if (!PagodaError.is(error) || fatalCodes.has(error.code)) throw error;
      if (!answering.signal.aborted) return this.#reportFailure(error);
    } finally {
      this.#answering = undefined;
    }
    await this.#console.write("\n");
    this.#messages = [...messages, { role: "assistant", content: answer }];
  }

  /** What could not be answered counts as not said. */
  #reportFailure(error: PagodaError): void {
    this.#hasFailed = true;
    this.#console.warn(errorLine(error));
  }
}
