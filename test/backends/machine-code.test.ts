import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it, onTestFinished } from "vitest";

interface Kernel {
  readonly name: string;
  readonly architecture: number;
  readonly registers: number;
  readonly stackBytes: number;
  readonly counts: Readonly<Record<string, number>>;
}

const { readKernels } = createRequire(import.meta.url)("../../scripts/cubins.cjs") as {
  readKernels(library: Buffer): Kernel[];
};

const symbol = "_ZN6pagoda4cuda12_GLOBAL__N_113productKernelILi4EEEvNS1_10ParametersE";

/** Strings with a NUL behind each, and where each begins. */
function stringTable(texts: readonly string[]): { data: Buffer; offsets: number[] } {
  const offsets: number[] = [];
  let data = Buffer.alloc(1);
  for (const text of texts) {
    offsets.push(data.length);
    data = Buffer.concat([data, Buffer.from(`${text}\0`)]);
  }
  return { data, offsets };
}

/** An ELF file of these sections behind an empty one, for the architecture 9.0. */
function elfOf(sections: readonly [name: string, data: Buffer][]): Buffer {
  const names = stringTable([...sections.map(([name]) => name), ".shstrtab"]);
  const all = [...sections.map(([, data]) => data), names.data];
  const headers = [Buffer.alloc(64)];
  let offset = 64;
  for (const [i, data] of all.entries()) {
    const header = Buffer.alloc(64);
    header.writeUInt32LE(names.offsets[i] as number, 0);
    header.writeUInt32LE(1, 4);
    header.writeBigUInt64LE(BigInt(offset), 24);
    header.writeBigUInt64LE(BigInt(data.length), 32);
    headers.push(header);
    offset += data.length;
  }
  const start = Buffer.alloc(64);
  start.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
  start.writeUInt16LE(190, 18);
  start.writeBigUInt64LE(BigInt(offset), 40);
  start.writeUInt32LE(0x06005a04, 48);
  start.writeUInt16LE(64, 58);
  start.writeUInt16LE(headers.length, 60);
  start.writeUInt16LE(headers.length - 1, 62);
  return Buffer.concat([start, ...all, ...headers]);
}

/** Instructions of 16 bytes, of which the low 12 bits say what they are. */
function code(opcodes: readonly number[]): Buffer {
  const data = Buffer.alloc(16 * opcodes.length);
  for (const [i, opcode] of opcodes.entries()) data.writeUInt16LE(0x7000 | opcode, 16 * i);
  return data;
}

/** An attribute of the symbol 1. */
function attribute(number: number, value: number): Buffer {
  const data = Buffer.from([4, number, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
  data.writeUInt32LE(value, 8);
  return data;
}

describe("readKernels", () => {
  const names = stringTable([symbol]);
  const symbols = Buffer.alloc(48);
  symbols.writeUInt32LE(names.offsets[0] as number, 24);
  const cubin = elfOf([
    [".strtab", names.data],
    [".symtab", symbols],
    [
      ".nv.info",
      Buffer.concat([Buffer.from([3, 1, 9, 9]), attribute(0x2f, 168), attribute(0x11, 24)]),
    ],
    [`.text.${symbol}`, code([0x918, 0x23c, 0x9f0, 0x9f0, 0x5b4])],
  ]);

  it("finds kernels inside a library, and what they are made of", () => {
    const library = Buffer.concat([Buffer.alloc(100, 7), cubin, Buffer.alloc(40), cubin]);
    const kernel = {
      name: "productKernel",
      architecture: 90,
      registers: 168,
      stackBytes: 24,
      counts: { HMMA: 1, HGMMA: 2, UTMALDG: 1, LDSM: 0, LDGSTS: 0 },
    };
    expect(readKernels(library)).toMatchObject([kernel, kernel]);
  });

  it("takes no code of the host for that of a GPU", () => {
    const host = Buffer.from(cubin);
    host.writeUInt16LE(62, 18);
    expect(readKernels(host)).toEqual([]);
  });
});

describe("nvcc-strict.sh", () => {
  const script = fileURLToPath(new URL("../../scripts/nvcc-strict.sh", import.meta.url));

  /** What is left of a compilation that writes its output and says so much. */
  function compile(
    remark: string,
    exitCode: number,
  ): { status: number | null; isThere: boolean; stderr: string } {
    const folder = mkdtempSync(path.join(tmpdir(), "pagoda-nvcc-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const output = path.join(folder, "kernel.o");
    const compiler = `echo object > "$1"; echo "${remark}"; exit ${exitCode}`;
    const words = ["sh", "-c", compiler, "nvcc", output, "-o", output];
    const { status, stderr } = spawnSync(script, words, { encoding: "utf8" });
    return { status, isThere: existsSync(output), stderr };
  }

  it("fails, and leaves no object file, where wgmma is serialised", () => {
    const remark = "ptxas info : (C7510) Potential Performance Loss";
    expect(compile(remark, 0)).toEqual({ status: 1, isThere: false, stderr: `${remark}\n` });
  });

  it("does what the compiler does otherwise", () => {
    expect(compile("Used 168 registers", 0)).toMatchObject({ status: 0, isThere: true });
    expect(compile("error", 2)).toMatchObject({ status: 2, isThere: false });
  });
});
