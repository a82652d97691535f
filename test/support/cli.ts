import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";

/** The built `pagoda`. */
export const mainScript: string = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface CliResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningCli {
  readonly child: ChildProcess;
  readonly result: Promise<CliResult>;
  /** Waits until standard output holds what the pattern matches. */
  output(pattern: RegExp): Promise<RegExpMatchArray>;
}

/** Starts the built `pagoda` as a process of its own; it is killed when the test ends. */
export function startCli(words: readonly string[], env: Record<string, string> = {}): RunningCli {
  const child = spawn(process.execPath, [mainScript, ...words], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, PAGODA_DEBUG: "", ...env },
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin.on("error", () => undefined);
  const result = new Promise<CliResult>((resolve) =>
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr })),
  );
  const output = async (pattern: RegExp): Promise<RegExpMatchArray> => {
    const end = Date.now() + 20_000;
    for (;;) {
      const found = stdout.match(pattern);
      if (found !== null) return found;
      if (child.exitCode !== null || Date.now() > end) {
        throw new Error(`No ${pattern} in ${JSON.stringify({ stdout, stderr })}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  return { child, result, output };
}

/** Runs the built `pagoda` to its end, with this text as standard input. */
export function runCli(words: readonly string[], input = ""): Promise<CliResult> {
  const { child, result } = startCli(words);
  child.stdin!.end(input);
  return result;
}
