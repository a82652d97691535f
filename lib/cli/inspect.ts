import { defineCommand, type Command } from "./command.js";
import { dtypeOption } from "./engine-options.js";
import { flag } from "./option.js";
import { inspectModel, type ModelReport } from "./model-report.js";
import { formatBytes, formatCount } from "./format.js";

export const inspect: Command = defineCommand({
  name: "inspect",
  about: "Show what a model is and what memory it needs, without loading its weights",
  usage: "inspect DIR [options]",
  positional: "DIR",
  options: {
    dtype: dtypeOption,
    json: flag("Print one JSON object instead"),
  },
  run: async ({ dtype = "auto", json }, console, directory) => {
    const report = await inspectModel(directory, dtype);
    await console.write(json ? `${JSON.stringify(report)}\n` : reportText(report));
    return 0;
  },
});

function reportText(report: ModelReport): string {
  const { weights, kvCache } = report;
  const tensors = report.tensors
    .map(({ dtype, count, parameters }) => `${dtype} (${count}, ${formatCount(parameters)})`)
    .join(", ");
  const rows: [string, string][] = [
    ["model", `${report.name} (${report.path})`],
    ["architecture", report.architecture],
    ["parameters", formatCount(report.parameters)],
    ["tensors", tensors],
    ["layers", `${report.numLayers} of width ${report.hiddenSize}`],
    ["vocabulary", `${report.vocabSize} tokens`],
    ["context length", `${report.contextLength} tokens`],
    ["tokenizer", report.hasTokenizer ? "yes" : "none: only token ids can be used"],
    ["chat template", report.hasChatTemplate ? "yes" : "none"],
    ["weights", `${formatBytes(weights.bytes)} as ${weights.dtype}`],
    ["KV cache", `${formatBytes(kvCache.bytesPerToken)} a token as ${kvCache.dtype}`],
    ["", `${formatBytes(kvCache.bytesPer1kTokens)} for a context of 1024 tokens`],
    ["workspace", `${formatBytes(report.arenaBytes)} for steps of ${report.maxBatchTokens} tokens`],
  ];
  const width = Math.max(...rows.map(([label]) => label.length));
  const lines = rows.map(([label, value]) => `${label.padEnd(width)}  ${value}`);
  return `${lines.join("\n")}\n\n${report.plan}`;
}
