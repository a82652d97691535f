import type { Command } from "./command.js";
import { flagOf } from "./option.js";

/** What `pagoda --help` prints. */
export function generalHelp(commands: readonly Command[]): string {
  return [
    "Pagoda runs large language models inside Node.js.",
    "",
    "Usage: pagoda COMMAND [options]",
    "",
    "Commands:",
    ...columns(commands.map(({ name, about }) => [name, about])),
    "",
    "`pagoda COMMAND --help` shows the options of a command, `pagoda --version` the version.",
    "",
  ].join("\n");
}

/** What `pagoda COMMAND --help` prints. */
export function commandHelp(command: Command): string {
  const rows = Object.entries(command.options).map(([name, { value, about, repeatable }]) => [
    value === undefined ? flagOf(name) : `${flagOf(name)} ${value}`,
    repeatable === true ? `${about}; may be repeated` : about,
  ]);
  return [
    `${command.about}.`,
    "",
    `Usage: pagoda ${command.usage}`,
    "",
    "Options:",
    ...columns([...rows, ["--help", "Show this text"]]),
    "",
  ].join("\n");
}

function columns(rows: readonly (readonly string[])[]): string[] {
  const width = Math.max(...rows.map(([left]) => left?.length ?? 0));
  return rows.map(([left = "", right = ""]) => `  ${left.padEnd(width)}  ${right}`);
}
