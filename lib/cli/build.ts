import { spawn } from "node:child_process";
import path from "node:path";
import { packageRoot } from "../native.js";
import { defineCommand, type Command } from "./command.js";

export const build: Command = defineCommand({
  name: "build",
  about: "Compile the native addon here, where no prebuilt one fits",
  usage: "build",
  options: {},
  run: async () => {
    const script = path.join(packageRoot, "scripts", "build-native.cjs");
    const child = spawn(process.execPath, [script], { stdio: "inherit" });
    return new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code) => resolve(code ?? 1));
    });
  },
});
