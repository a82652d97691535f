"use strict";
// Reads the GPU code in a library that nvcc has made without compression: kernels, what they take of a GPU, and their
// instructions. It needs no tool of the CUDA toolkit. What the numbers mean was found by compiling kernels of known
// instructions with nvcc 13.0.

/** Low 12 bits of an instruction of 128 bits, on 8.0 and later. */
const instructions = {
  HMMA: 0x23c, // mma.sync
  LDSM: 0x83b, // ldmatrix
  LDGSTS: 0xfae, // cp.async
  HGMMA: 0x9f0, // wgmma
  UTMALDG: 0x5b4, // cp.async.bulk.tensor
};

const elfMagic = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]); // 64 bits, little-endian
const cudaMachine = 190;
const infoAttributes = { registers: 0x2f, stackBytes: 0x11 };

/**
 * Kernels of all architectures: `{ name, symbol, architecture, registers, stackBytes, counts }`, `architecture` as 80 for 8.0,
 * `counts` how often each of the instructions above occurs.
 */
function readKernels(library) {
  const kernels = [];
  for (let at = 0; (at = library.indexOf(elfMagic, at)) >= 0; at += elfMagic.length) {
    if (library.readUInt16LE(at + 18) === cudaMachine) {
      kernels.push(...kernelsOf(library.subarray(at)));
    }
  }
  return kernels;
}

function kernelsOf(elf) {
  const sections = readSections(elf);
  const symbols = readSymbols(sections);
  const info = readInfo(sections.find(({ name }) => name === ".nv.info"));
  const architecture = (elf.readUInt32LE(48) >> 8) & 0xff;
  return sections
    .filter(({ name }) => name.startsWith(".text."))
    .map(({ name, data }) => {
      const symbol = name.slice(".text.".length);
      const facts = info.get(symbols.indexOf(symbol)) ?? {};
      return {
        name: functionName(symbol),
        symbol,
        architecture,
        registers: facts.registers ?? 0,
        stackBytes: facts.stackBytes ?? 0,
        counts: countInstructions(data),
      };
    });
}

function readSections(elf) {
  const start = Number(elf.readBigUInt64LE(40));
  const [size, count, namesAt] = [58, 60, 62].map((at) => elf.readUInt16LE(at));
  const headers = Array.from({ length: count }, (_, i) => elf.subarray(start + i * size));
  const dataOf = (header) => {
    const isEmpty = header.readUInt32LE(4) === 8; // takes no room in the file
    const offset = Number(header.readBigUInt64LE(24));
    return elf.subarray(offset, offset + (isEmpty ? 0 : Number(header.readBigUInt64LE(32))));
  };
  const names = dataOf(headers[namesAt]);
  return headers.map((header) => ({
    name: textAt(names, header.readUInt32LE(0)),
    data: dataOf(header),
  }));
}

/** Names by the index of the symbol. */
function readSymbols(sections) {
  const [symbols, names] = [".symtab", ".strtab"].map(
    (wanted) => sections.find(({ name }) => name === wanted).data,
  );
  const entryBytes = 24;
  return Array.from({ length: symbols.length / entryBytes }, (_, i) =>
    textAt(names, symbols.readUInt32LE(i * entryBytes)),
  );
}

/** Entries of a byte for the format, one for the attribute, and 16 bits: a value, or the length of what follows. */
function readInfo(section) {
  const facts = new Map();
  const data = section?.data ?? Buffer.alloc(0);
  const hasLength = 4;
  for (let at = 0; at < data.length;) {
    const [format, attribute, length] = [data[at], data[at + 1], data.readUInt16LE(at + 2)];
    at += 4;
    if (format !== hasLength) continue;
    for (const [fact, number] of Object.entries(infoAttributes)) {
      if (attribute !== number) continue;
      const symbol = data.readUInt32LE(at);
      facts.set(symbol, { ...facts.get(symbol), [fact]: data.readUInt32LE(at + 4) });
    }
    at += length;
  }
  return facts;
}

function countInstructions(code) {
  const counts = Object.fromEntries(Object.keys(instructions).map((name) => [name, 0]));
  const names = new Map(Object.entries(instructions).map(([name, opcode]) => [opcode, name]));
  for (let at = 0; at + 16 <= code.length; at += 16) {
    const name = names.get(code.readUInt16LE(at) & 0xfff);
    if (name !== undefined) counts[name] += 1;
  }
  return counts;
}

function textAt(data, offset) {
  return data.toString("latin1", offset, data.indexOf(0, offset));
}

/** The last name of a mangled one, without template arguments: `_ZN6pagoda4cuda9addKernelE...` is addKernel. */
function functionName(symbol) {
  let name = symbol;
  let rest = symbol.replace(/^_ZN?K?/, "");
  for (let match; (match = /^(\d+)/.exec(rest)) !== null;) {
    const start = match[0].length;
    name = rest.slice(start, start + Number(match[0]));
    rest = rest.slice(start + Number(match[0]));
  }
  return name;
}

module.exports = { instructions, readKernels };
