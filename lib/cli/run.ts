import { parseArguments } from "./arguments.js";
import { build } from "./build.js";
import { chat } from "./chat.js";
import type { Command } from "./command.js";
import type { Console } from "./console.js";
import { devices } from "./devices.js";
import { errorLine } from "./error-line.js";
import { generate } from "./generate.js";
import { commandHelp, generalHelp } from "./help.js";
import { inspect } from "./inspect.js";
import { logits } from "./logits.js";
import { UsageError } from "./option.js";
import { serve } from "./serve.js";
import { closest } from "./suggestion.js";
import { packageVersion } from "../version.js";

const commands: readonly Command[] = [generate, chat, serve, logits, inspect, devices, build];

/** Runs `pagoda` with the words after its name. Resolves with the exit code; never rejects. */
export async function run(words: readonly string[], console: Console): Promise<number> {
  try {
    const exitCode = await dispatch(words, console);
    return exitCode === 0 ? outputExitCode(console) : exitCode;
  } catch (error) {
    console.warn(errorLine(error));
    if (!(error instanceof UsageError)) return 1;
    const command = commands.find(({ name }) => name === words[0]);
    console.warn(
      `Run \`pagoda ${command === undefined ? "" : `${command.name} `}--help\` for help.`,
    );
    return 2;
  }
}

async function dispatch(words: readonly string[], console: Console): Promise<number> {
  const [first, ...rest] = words;
  if (first === undefined || first === "--help" || first === "-h" || first === "help") {
    return help(rest[0], first === undefined, console);
  }
  if (first === "--version" || first === "-v") {
    await console.write(`${packageVersion()}\n`);
    return 0;
  }
  const command = findCommand(first);
  if (asksForHelp(rest)) {
    await console.write(commandHelp(command));
    return 0;
  }
  return command.run(parseArguments(command, rest), console);
}

/** Help that was not asked for is a mistake in usage. */
async function help(
  topic: string | undefined,
  isMistake: boolean,
  console: Console,
): Promise<number> {
  const text = topic === undefined ? generalHelp(commands) : commandHelp(findCommand(topic));
  if (isMistake) console.warn(text.trimEnd());
  else await console.write(text);
  return isMistake ? 2 : 0;
}

/** `--help` anywhere before `--`. */
function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf("--");
  const before = end < 0 ? words : words.slice(0, end);
  return before.includes("--help") || before.includes("-h");
}

function findCommand(name: string): Command {
  const found = commands.find((command) => command.name === name);
  if (found !== undefined) return found;
  const near = closest(
    name,
    commands.map((command) => command.name),
  );
  const hint = near === undefined ? "" : `; did you mean \`pagoda ${near}\`?`;
  if (name.startsWith("-")) throw new UsageError(`pagoda has no option ${name}; name a command`);
  throw new UsageError(`pagoda has no command ${JSON.stringify(name)}${hint}`);
}

/** A reader that has had enough (EPIPE) is no failure; an output that cannot be written is. */
function outputExitCode(console: Console): number {
  const { aborted, reason } = console.outputClosed;
  if (!aborted || (reason as NodeJS.ErrnoException).code === "EPIPE") return 0;
  console.warn(errorLine(reason));
  return 1;
}
