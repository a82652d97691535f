import { describe, expect, test } from "vitest";
import { startCli, type CliResult } from "../support/cli.js";
import { demoModel } from "../support/demo.js";
import { emulatedPlugIn } from "../support/emulated-gpu.js";

const generate = ["generate", "--model", demoModel, "--prompt", "Once", "--max-tokens", "2"];

/** Runs `pagoda` with an emulated GPU. */
function run(words: readonly string[], setup: string): Promise<CliResult> {
  const env = { PAGODA_CUDA_PLUGIN: emulatedPlugIn ?? "", PAGODA_CUDA_EMULATOR: setup };
  return startCli(words, env).result;
}

describe.skipIf(emulatedPlugIn === undefined)("devices", () => {
  test("are listed, and why others cannot be used", async () => {
    const { code, stdout } = await run(["devices"], "gpus=8.0,7.5 memory=3000000");
    expect(code).toBe(0);
    const [cpu, ...gpus] = stdout.trimEnd().split("\n");
    expect(cpu).toMatch(/^cpu +.*, \w+, .* of .*B free$/);
    expect(gpus).toEqual([
      "cuda:0  CUDA emulator on the CPU, sm_80, 3.00 MB of 3.00 MB free",
      "cuda:1  unavailable: GPU 1 has compute capability 7.5, and 8.0 is needed",
    ]);
    const json = await run(["devices", "--json"], "driver=0");
    const reason = "No NVIDIA driver is installed (libcuda.so.1)";
    expect(JSON.parse(json.stdout)).toMatchObject([
      { device: "cpu", available: true, info: { backend: "cpu", index: 0 } },
      { device: "cuda", available: false, reason },
    ]);
  });

  test("that cannot be used end a command, or are passed over by auto, with the reason", async () => {
    const refused = await run([...generate, "--device", "cuda:0"], "driver=11.8");
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(
      /^pagoda: Device cuda:0 cannot be used: .*too old.*ERR_BACKEND_/,
    );
    const auto = await run([...generate, "--device", "auto"], "driver=11.8");
    expect(auto.code).toBe(0);
    expect(auto.stderr).toMatch(/^pagoda: cuda is not used: The NVIDIA driver is too old: .*\n$/);
    const cpu = await run(generate, "driver=11.8");
    expect(cpu).toEqual({ ...auto, stderr: "" });
  });

  test("of unknown names are mistakes in usage", async () => {
    const { code, stderr } = await run([...generate, "--device", "gpu"], "");
    expect(code).toBe(2);
    expect(stderr).toMatch(/^pagoda: --device takes cpu, auto or for example cuda:0, not "gpu"\n/);
  });
});
