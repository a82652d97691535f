// From the rounds of all sides to the rows of a table.
import { partOfLimit } from "./limits.mjs";
import { loadRows, measures, median } from "./measures.mjs";

/**
 * One row a figure. `values` has the median of each side's rounds, in the order of the sides; the first one is ours. `ratio`:
 * how many times better ours is than the best of the others. `spread`: the largest of our rounds over the smallest.
 */
export function rowsOf({ names, sides, model, limits }) {
  const specs = { ...loadRows };
  for (const name of names) Object.assign(specs, measures[name].rows);
  return Object.entries(specs).map(([key, { label, unit, isHigherBetter, limit }]) => {
    const values = sides.map(({ rounds }) => median(rounds.map((round) => round[key])));
    const hasLimit = limit !== undefined && limits !== undefined;
    return {
      label,
      unit,
      values,
      ratio: ratioOf(values, isHigherBetter),
      part: hasLimit ? partOfLimit(limit, values[0], model, limits) : undefined,
      spread: spreadOf(sides[0].rounds.map((round) => round[key])),
    };
  });
}

function ratioOf([ours, ...others], isHigherBetter) {
  if (others.length === 0) return undefined;
  return isHigherBetter ? ours / Math.max(...others) : Math.min(...others) / ours;
}

function spreadOf(values) {
  return Math.max(...values) / Math.min(...values);
}

export const number = (value) =>
  value >= 100 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);
const percent = (part) => (part === undefined ? "" : `${Math.round(100 * part)} %`);
const times = (ratio) => (ratio === undefined ? "" : `${ratio.toFixed(2)}x`);

/** Cells of the table, the titles first. */
export function cellsOf(sides, rows) {
  const titles = ["", "unit", ...sides.map(({ name }) => name), "ratio", "of the limit", "spread"];
  const cells = rows.map(({ label, unit, values, ratio, part, spread }) => {
    return [label, unit, ...values.map(number), times(ratio), percent(part), times(spread)];
  });
  return [titles, ...cells];
}

/** A table in Markdown, figures on the right. */
export function markdownOf([titles, ...rows]) {
  const widths = titles.map((title, i) =>
    Math.max(3, ...[title, ...rows.map((row) => row[i])].map((cell) => cell.length)),
  );
  const isText = (i) => i < 2;
  const line = (cells) =>
    `| ${cells.map((cell, i) => (isText(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(" | ")} |`;
  const rule = widths.map((width, i) =>
    isText(i) ? "-".repeat(width) : `${"-".repeat(width - 1)}:`,
  );
  return [line(titles), line(rule), ...rows.map(line)].join("\n");
}
