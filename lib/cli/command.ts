import type { Console } from "./console.js";
import { flagOf, type Options, type Values } from "./option.js";

/** A subcommand of `pagoda`. */
export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly about: string;
  /** How it is called, after `pagoda`. */
  readonly usage: string;
  /** Name of the one positional argument, when it takes one, which it then needs. */
  readonly positional?: string;
  readonly options: Options;
  /** Reads the options and runs; resolves with the exit code. */
  run(given: GivenArguments, console: Console): Promise<number>;
}

/** What was given on the command line, unread. */
export interface GivenArguments {
  readonly positional: string | undefined;
  /** The texts of an option by its name; a flag without a value has an empty text. */
  readonly options: ReadonlyMap<string, readonly string[]>;
}

interface TypedCommand<O extends Options> extends Omit<Command, "run" | "options"> {
  readonly options: O;
  run(values: Values<O>, console: Console, positional: string): Promise<number>;
}

/** Gives a command's `run` the values of its options, typed by their table. */
export function defineCommand<O extends Options>(command: TypedCommand<O>): Command {
  return {
    ...command,
    run: async (given, console) => {
      const read = Object.entries(command.options).map(([name, option]) => [
        name,
        option.read(flagOf(name), given.options.get(name) ?? []),
      ]);
      const values = Object.fromEntries(read) as Values<O>;
      return command.run(values, console, given.positional ?? "");
    },
  };
}
