import type { ReadStream, WriteStream } from "node:tty";

/** The process as the commands see it: standard streams that may close at any time, and interrupts. */
export interface Console {
  readonly stdin: NodeJS.ReadStream | ReadStream;
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
  /**
   * Takes over SIGINT and SIGTERM until the returned function is called. Any further one while the first is being dealt
   * with ends the process at once.
   */
  onInterrupt(listener: () => void): () => void;
}

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
  await new Promise<void>((resolve) => {
    closed.addEventListener("abort", () => resolve(), { once: true });
    stream.write(text, () => resolve());
  });
}

function onInterrupt(listener: () => void): () => void {
  let count = 0;
  const handlers = Object.entries(interrupts).map(([name, exitCode]) => {
    const handler = (): void => {
      if (count++ > 0) process.exit(exitCode);
      listener();
    };
    return [name, handler] as const;
  });
  for (const [name, handler] of handlers) process.on(name, handler);
  return () => {
    for (const [name, handler] of handlers) process.off(name, handler);
  };
}
