import type { WriteStream } from "node:tty";
import type { LoadProgress } from "../engine/types.js";
import { formatBytes } from "./format.js";

const width = 30;

/** A bar of how far loading is, drawn over itself in one line of a terminal; the line is cleared at the end. */
export interface ProgressBar {
  show(progress: LoadProgress): void;
  clear(): void;
}

/** Shows nothing when there is no terminal. */
export function progressBar(terminal: WriteStream | undefined): ProgressBar {
  if (terminal === undefined) return { show: () => undefined, clear: () => undefined };
  return {
    show: (progress) => void terminal.write(`\r\u001b[K${barText(progress)}`),
    clear: () => void terminal.write("\r\u001b[K"),
  };
}

/** Such as `Loading [#######-----]  58%  1.2 GB of 2.0 GB`. */
export function barText({ phase, loaded, total }: LoadProgress): string {
  if (phase === "open" || total === 0) return "Opening the model";
  const part = Math.min(1, loaded / total);
  const done = Math.round(width * part);
  const bar = "#".repeat(done) + "-".repeat(width - done);
  const percent = `${Math.floor(100 * part)}%`.padStart(4);
  return `Loading [${bar}] ${percent}  ${formatBytes(loaded)} of ${formatBytes(total)}`;
}
