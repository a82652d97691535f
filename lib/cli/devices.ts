import { listDevices, type DeviceReport } from "../engine/list-devices.js";
import { defineCommand, type Command } from "./command.js";
import { formatBytes } from "./format.js";
import { flag } from "./option.js";

export const devices: Command = defineCommand({
  name: "devices",
  about: "List the devices that --device takes here, and why others cannot be used",
  usage: "devices [--json]",
  options: { json: flag("Print one JSON array instead") },
  run: async ({ json }, console) => {
    const reports = await listDevices();
    await console.write(json ? `${JSON.stringify(reports)}\n` : reportText(reports));
    return 0;
  },
});

function reportText(reports: readonly DeviceReport[]): string {
  const width = Math.max(...reports.map(({ device }) => device.length));
  return reports.map((report) => `${report.device.padEnd(width)}  ${describe(report)}\n`).join("");
}

function describe(report: DeviceReport): string {
  if (!report.available) return `unavailable: ${report.reason}`;
  const { name, isa, availableMemory, totalMemory } = report.info;
  return `${name}, ${isa}, ${formatBytes(availableMemory)} of ${formatBytes(totalMemory)} free`;
}
