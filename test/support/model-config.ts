import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ConfigReader } from "../../lib/loading/config.js";
import { defineModel } from "../../lib/models/registry.js";
import { goldenDirectory } from "./golden.js";

export type Fields = Record<string, unknown>;

/** config.json of a golden model with some fields replaced; undefined removes one. */
export function configOf(name: string, change: Fields = {}): ConfigReader {
  const raw = JSON.parse(
    readFileSync(join(goldenDirectory(name), "config.json"), "utf8"),
  ) as Fields;
  const fields = Object.entries({ ...raw, ...change }).filter(([, value]) => value !== undefined);
  return new ConfigReader(Object.fromEntries(fields), "config.json");
}

/** What {@link defineModel} throws. */
export function errorOf(config: ConfigReader): { code: string; message: string; details: Fields } {
  try {
    defineModel(config);
  } catch (error) {
    return error as { code: string; message: string; details: Fields };
  }
  throw new Error("no error");
}
