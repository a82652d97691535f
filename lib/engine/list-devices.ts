import { backends, findPlugIns } from "../backends.js";
import { PagodaError } from "../errors.js";
import type { BackendReport, DeviceInfo } from "../native.js";
import { openDevice } from "./native-executor.js";

/** A device, or a backend of which none can be used. */
export type DeviceReport =
  | {
      /** As `EngineOptions.device` takes it, e.g. "cuda:0". */
      readonly device: string;
      readonly available: true;
      readonly info: DeviceInfo;
    }
  | { readonly device: string; readonly available: false; readonly reason: string };

/**
 * Every device that `EngineOptions.device` can name here, the CPU first, and why others cannot be used: `cuda:1` for one GPU,
 * `cuda` for all. Each is opened for a moment; while drivers start, the event loop stands still.
 *
 * @throws PagodaError ERR_NATIVE_NOT_FOUND
 */
export async function listDevices(): Promise<DeviceReport[]> {
  const reports: DeviceReport[] = [];
  for (const backend of backends()) reports.push(...(await devicesOf(backend)));
  for (const plugIn of findPlugIns()) {
    if ("reason" in plugIn) reports.push(unavailable(plugIn.name, plugIn.reason));
  }
  return reports;
}

async function devicesOf(report: BackendReport): Promise<DeviceReport[]> {
  const { name, path, available, reason = "unknown reason", deviceCount } = report;
  if (!available) {
    const plugIn = findPlugIns().find((found) => "path" in found && found.path === path);
    return [unavailable(plugIn?.name ?? name, reason)];
  }
  const devices: DeviceReport[] = [];
  for (let index = 0; index < deviceCount; index++) {
    const device = path === undefined ? name : `${name}:${index}`;
    devices.push(await inspect(device, { backend: path ?? "cpu", device: index }));
  }
  return devices;
}

async function inspect(
  device: string,
  selection: { readonly backend: string; readonly device: number },
): Promise<DeviceReport> {
  try {
    const jobs = await openDevice(selection, 1);
    const info = jobs.device;
    await jobs.close();
    return { device, available: true, info };
  } catch (error) {
    if (PagodaError.is(error, "ERR_BACKEND_UNAVAILABLE")) return unavailable(device, error.message);
    throw error;
  }
}

function unavailable(device: string, reason: string): DeviceReport {
  return { device, available: false, reason };
}
