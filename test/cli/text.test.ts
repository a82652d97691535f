import { expect, test } from "vitest";
import { errorLine } from "../../lib/cli/error-line.js";
import { formatBytes, formatCount } from "../../lib/cli/format.js";
import { barText } from "../../lib/cli/progress-bar.js";
import { closest } from "../../lib/cli/suggestion.js";
import { PagodaError } from "../../lib/errors.js";

test("sizes and counts have three digits", () => {
  expect([0, 999, 1000, 1_234_567, 999_499, 999_500, 5e18].map(formatBytes)).toEqual([
    "0 B",
    "999 B",
    "1.00 KB",
    "1.23 MB",
    "999 KB",
    "1.00 MB",
    "5.00e+3 PB",
  ]);
  expect([12, 3.44e6, 999_600_000, 70.55e9].map(formatCount)).toEqual([
    "12",
    "3.44 million",
    "1.00 billion",
    "70.5 billion",
  ]);
});

test("the bar", () => {
  expect(barText({ phase: "open", loaded: 0, total: 0 })).toBe("Opening the model");
  expect(barText({ phase: "weights", loaded: 1e9, total: 2e9 })).toBe(
    `Loading [${"#".repeat(15)}${"-".repeat(15)}]  50%  1.00 GB of 2.00 GB`,
  );
  const last = barText({ phase: "ready", loaded: 2e9, total: 2e9 });
  expect(last).toBe(`Loading [${"#".repeat(30)}] 100%  2.00 GB of 2.00 GB`);
  expect(last.length).toBeLessThan(80);
});

test("suggestions are near or none", () => {
  const flags = ["--model", "--prompt", "--prompt-ids", "--max-tokens", "--top-k", "--top-p"];
  expect(closest("--modle", flags)).toBe("--model");
  expect(closest("--max_tokens", flags)).toBe("--max-tokens");
  expect(closest("--promptids", flags)).toBe("--prompt-ids");
  expect(closest("--frobnicate", flags)).toBeUndefined();
  expect(closest("x".repeat(100_000), flags)).toBeUndefined();
});

test("an error is one line", () => {
  expect(errorLine(new PagodaError("ERR_MEMORY", "Too\n  large"), "")).toBe(
    "pagoda: Too large (ERR_MEMORY)",
  );
  expect(errorLine(new TypeError("Oops"), "")).toBe("pagoda: Oops");
  expect(errorLine("a string", "")).toBe("pagoda: a string");
  expect(errorLine(undefined, "")).toBe("pagoda: undefined");
});
