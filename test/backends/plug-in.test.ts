import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { backends } from "../../lib/backends.js";
import { listDevices } from "../../lib/engine/list-devices.js";
import { openNamedDevice } from "../../lib/engine/open-device.js";
import { loadNative, packageRoot } from "../../lib/native.js";

const cudaPlugIn = path.join(packageRoot, "build", "Release", "pagoda_backend_cuda.so");

describe("backends", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), "pagoda-plug-in-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("always has the CPU", () => {
    expect(backends()[0]).toMatchObject({ name: "cpu", available: true, deviceCount: 1 });
  });

  it("reports a plug-in that does not exist, with the reason", () => {
    const missing = path.join(folder, "missing.so");
    const report = loadNative().backends([missing])[1];
    expect(report).toMatchObject({ available: false, path: missing });
    expect(report?.reason).toContain("missing.so");
  });

  it("reports a file that is no library, and a library that is no plug-in", () => {
    const text = path.join(folder, "text.so");
    writeFileSync(text, "not a library");
    const empty = path.join(folder, "empty.so");
    execFileSync("c++", ["-shared", "-x", "c++", "-o", empty, "-"], { input: "" });
    const reports = loadNative().backends([text, empty]).slice(1);
    expect(reports.map(({ available }) => available)).toEqual([false, false]);
    expect(reports[1]?.reason).toContain("pagodaBackend");
  });

  it("refuses a plug-in of another ABI", () => {
    const other = path.join(folder, "other.so");
    const source =
      'extern "C" const unsigned* pagodaBackend() { static unsigned table[64] = {99}; return table; }';
    execFileSync("c++", ["-shared", "-fPIC", "-x", "c++", "-o", other, "-"], { input: source });
    const report = loadNative().backends([other])[1];
    expect(report?.available).toBe(false);
    expect(report?.reason).toContain("ABI 99");
  });

  it("names the parameter for an unknown device, and the reason for one that cannot be used", async () => {
    const open = (device: string) => openNamedDevice(device, { maxOutputs: 1 });
    for (const name of ["tpu:0", "cuda", "cuda:", "cuda:-1", "cuda:1000", "CPU", ""]) {
      await expect(open(name)).rejects.toMatchObject({
        code: "ERR_ARGUMENT",
        details: { parameter: "device" },
      });
    }
    await expect(open("cuda:999")).rejects.toThrow(/cuda:999 cannot be used/);
  });

  it("take the plug-in that PAGODA_CUDA_PLUGIN names, and tell why it cannot be used", async () => {
    const missing = path.join(folder, "missing.so");
    process.env["PAGODA_CUDA_PLUGIN"] = missing;
    onTestFinished(() => void delete process.env["PAGODA_CUDA_PLUGIN"]);
    const { jobs, passedOver } = await openNamedDevice("auto", { maxOutputs: 1, threads: 1 });
    await jobs.close();
    expect(passedOver).toEqual([{ backend: "cuda", reason: expect.stringContaining(missing) }]);
    const report = (await listDevices()).find(({ device }) => device === "cuda");
    expect(report).toMatchObject({ available: false, reason: expect.stringContaining(missing) });
  });
});

// Built by `npm run build:cuda`, where nvcc is installed.
describe.skipIf(!existsSync(cudaPlugIn))("the CUDA plug-in", () => {
  it("loads; where no GPU can be used it says why", () => {
    const report = backends().find(({ name }) => name === "cuda");
    expect(report?.path).toBe(cudaPlugIn);
    if (report?.available) expect(report.deviceCount).toBeGreaterThan(0);
    else expect(report?.reason).toMatch(/NVIDIA|GPU/);
  });
});
