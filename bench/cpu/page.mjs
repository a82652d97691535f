// A page of its own with the tables of bench/cpu.mjs and bars.
import { cellsOf, number } from "./table.mjs";

const colours = ["#1f6feb", "#bbbbbb", "#8c8c8c", "#666666"];
const width = 420;
const barHeight = 12;

/** `reports`: a title, lines about the machine, the sides and the rows of each model. */
export function pageOf(reports) {
  const sections = reports.map(
    ({ title, lines, sides, rows }) => `<h2>${escape(title)}</h2>
${lines.map((line) => `<p>${escape(line)}</p>`).join("\n")}
${legendOf(sides)}
<table>${tableRows(sides, rows).join("\n")}</table>`,
  );
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>CPU speed</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 2em; }
th, td { padding: 2px 10px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
p { margin: 0.2em 0; color: #555; }
</style>
<h1>CPU speed</h1>
${sections.join("\n")}
</html>
`;
}

function tableRows(sides, rows) {
  const [titles, ...cells] = cellsOf(sides, rows);
  const row = (tag, values) => values.map((value) => `<${tag}>${escape(value)}</${tag}>`).join("");
  return [
    `<tr>${row("th", titles)}</tr>`,
    ...cells.map((values, i) => `<tr>${row("td", values)}<td>${barsOf(rows[i])}</td></tr>`),
  ];
}

/** A bar a side; the longest one has the whole width. */
function barsOf({ unit, values }) {
  const scale = width / Math.max(...values);
  const bars = values.map((value, i) => {
    const length = Math.max(1, value * scale).toFixed(0);
    const hint = `<title>${number(value)} ${escape(unit)}</title>`;
    const y = i * barHeight;
    return `<rect y="${y}" width="${length}" height="${barHeight - 2}" fill="${colours[i]}">${hint}</rect>`;
  });
  return `<svg width="${width}" height="${values.length * barHeight}">${bars.join("")}</svg>`;
}

function legendOf(sides) {
  const entries = sides.map(
    ({ name }, i) => `<span style="color:${colours[i]}">&#9632;</span> ${escape(name)}`,
  );
  return `<p>${entries.join(" &nbsp; ")}</p>`;
}

function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
