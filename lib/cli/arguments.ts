import { parseArgs } from "node:util";
import type { Command, GivenArguments } from "./command.js";
import { flagOf, UsageError } from "./option.js";
import { closest } from "./suggestion.js";

/** Sorts the words of a command line by the command's table of options; throws UsageError. */
export function parseArguments(command: Command, words: readonly string[]): GivenArguments {
  const names = new Map(Object.keys(command.options).map((name) => [flagOf(name), name]));
  const types = [...names].map(([flag, name]) => {
    const type = command.options[name]?.value === undefined ? "boolean" : "string";
    return [flag.slice(2), { type }] as const;
  });
  const { tokens } = parseArgs({
    args: [...words],
    options: Object.fromEntries(types),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const positionals: string[] = [];
  const options = new Map<string, string[]>();
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const name = names.get(token.rawName);
    if (name === undefined) throw unknownOption(command, token.rawName, [...names.keys()]);
    checkValue(command, name, token);
    options.set(name, [...(options.get(name) ?? []), token.value ?? ""]);
  }
  return { positional: onePositional(command, positionals), options };
}

function onePositional(command: Command, given: readonly string[]): string | undefined {
  const extra = command.positional === undefined ? given[0] : given[1];
  if (extra !== undefined) {
    throw new UsageError(`Unexpected argument ${JSON.stringify(extra)} for \`${command.name}\``);
  }
  if (command.positional !== undefined && given[0] === undefined) {
    throw new UsageError(`${command.positional} is missing`);
  }
  return given[0];
}

/** A flag has no value, every other option has one, and a value that looks like an option needs `=`. */
function checkValue(
  command: Command,
  name: string,
  token: { rawName: string; value: string | undefined; inlineValue: boolean | undefined },
): void {
  const { rawName: flag, value, inlineValue } = token;
  const placeholder = command.options[name]?.value;
  if (placeholder === undefined) {
    if (value !== undefined) throw new UsageError(`${flag} takes no value`);
  } else if (value === undefined) {
    throw new UsageError(`${flag} needs a value: ${flag} ${placeholder}`);
  } else if (inlineValue !== true && /^-[^\d.]/.test(value)) {
    const text = `${flag} needs a value; write ${flag}=${value} if ${value} is meant as one`;
    throw new UsageError(text);
  }
}

function unknownOption(command: Command, flag: string, known: readonly string[]): UsageError {
  const near = closest(flag, known);
  const hint = near === undefined ? "" : `; did you mean ${near}?`;
  return new UsageError(`\`pagoda ${command.name}\` has no option ${flag}${hint}`);
}
