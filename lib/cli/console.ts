import type { WriteStream } from "node:tty";
import { PagodaError } from "../errors.js";

/** The process as the commands see it: standard streams that may close at any time, and interrupts. */
export interface Console {
  readonly stdin: NodeJS.ReadStream;
  /** Whether standard output is a terminal. */
  readonly isTty: boolean;
  /** Standard error when it is a terminal. */
  readonly errorTty: WriteStream | undefined;
  /** Fires when standard output is closed, as by `| head`, or cannot be written. */
  readonly outputClosed: AbortSignal;
  /** Writes to standard output; resolves when there is room for more. Does nothing once it is closed. */
  write(text: string): Promise<void>;
  /** Writes a line to standard error. */
  warn(line: string): void;
  /** Tells of each SIGINT and SIGTERM, which do nothing else until the returned function is called. */
  onInterrupt(listener: (exitCode: number) => void): () => void;
}

/** The conventional exit codes: 128 and the signal's number. */
const interrupts = { SIGINT: 130, SIGTERM: 143 } as const;

export function processConsole(): Console {
  const { stdin, stdout, stderr } = process;
  const closed = new AbortController();
  stdout.on("error", (error) => closed.abort(error));
  stderr.on("error", () => undefined);
  return {
    stdin,
    isTty: stdout.isTTY === true,
    errorTty: stderr.isTTY ? stderr : undefined,
    outputClosed: closed.signal,
    write: (text) => writeTo(stdout, closed.signal, text),
    warn: (line) => void stderr.write(`${line}\n`),
    onInterrupt,
  };
}

async function writeTo(
  stream: NodeJS.WritableStream,
  closed: AbortSignal,
  text: string,
): Promise<void> {
  if (closed.aborted || text === "") return;
  await new Promise<void>((resolve) => stream.write(text, () => resolve()));
}

function onInterrupt(listener: (exitCode: number) => void): () => void {
  const handlers = Object.entries(interrupts).map(
    ([name, exitCode]) => [name, () => listener(exitCode)] as const,
  );
  for (const [name, handler] of handlers) process.on(name, handler);
  return () => {
    for (const [name, handler] of handlers) process.off(name, handler);
  };
}

/**
 * Runs something that the first interrupt cancels, by its signal; the second one ends the process. Resolves with its exit
 * code, or with that of the interrupt when it ended with ERR_ABORTED.
 */
export async function interruptible(
  console: Console,
  run: (signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const controller = new AbortController();
  let interruptCode = 0;
  const release = console.onInterrupt((exitCode) => {
    if (controller.signal.aborted) process.exit(exitCode);
    interruptCode = exitCode;
    controller.abort();
  });
  try {
    return await run(controller.signal);
  } catch (error) {
    if (interruptCode > 0 && PagodaError.is(error, "ERR_ABORTED")) return interruptCode;
    throw error;
  } finally {
    release();
  }
}
