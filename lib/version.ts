import { readFileSync } from "node:fs";
import path from "node:path";
import { packageRoot } from "./native.js";

/** The version in package.json. */
export function packageVersion(): string {
  const file = path.join(packageRoot, "package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
