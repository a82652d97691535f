import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { architecture, ConfigReader, readConfig } from "../../lib/loading/config.js";
import { readGenerationConfig } from "../../lib/loading/generation-config.js";

const scratch = mkdtempSync(join(tmpdir(), "pagoda-config-"));
afterAll(() => rmSync(scratch, { recursive: true }));

function directoryOf(files: Readonly<Record<string, string>>): string {
  const directory = mkdtempSync(join(scratch, "model-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  return directory;
}

const reader = (raw: unknown) => new ConfigReader(raw, "config.json");
const code = (expected: string) => expect.objectContaining({ code: expected });
const invalid = (field: string) =>
  expect.objectContaining({
    code: "ERR_CONFIG_INVALID",
    details: { file: "config.json", field },
  });

describe("ConfigReader", () => {
  const config = reader({
    count: 3,
    ratio: 0.5,
    on: false,
    name: "x",
    list: ["a"],
    sizes: [1, 2.5],
    nothing: null,
    nested: { deep: { size: "4" } },
  });

  test("reads each type", () => {
    expect(config.integer("count", { min: 1, max: 3 })).toBe(3);
    expect(config.number("ratio", { exclusiveMin: 0, max: 1 })).toBe(0.5);
    expect(config.boolean("on", true)).toBe(false);
    expect(config.string("name")).toBe("x");
    expect(config.strings("list")).toEqual(["a"]);
    expect(config.numbers("sizes")).toEqual([1, 2.5]);
    expect(config.object("nested")?.object("deep")?.string("size")).toBe("4");
    expect(config.fields()).toContain("nothing");
  });

  test("takes null for absent", () => {
    for (const field of ["nothing", "missing"]) {
      expect(config.integer(field, { default: 7 })).toBe(7);
      expect(config.number(field, { default: 0.1 })).toBe(0.1);
      expect(config.boolean(field, true)).toBe(true);
      expect(config.string(field, "y")).toBe("y");
      expect(config.strings(field)).toEqual([]);
      expect(config.numbers(field)).toBeUndefined();
      expect(config.object(field)).toBeUndefined();
      expect(config.optionalInteger(field)).toBeUndefined();
      expect(config.optionalNumber(field)).toBeUndefined();
    }
    expect([config.has("nothing"), config.has("missing")]).toEqual([true, false]);
  });

  test.each([
    ["count", () => config.integer("count", { min: 4 })],
    ["count", () => config.integer("count", { max: 2 })],
    ["ratio", () => config.integer("ratio")],
    ["name", () => config.integer("name")],
    ["missing", () => config.integer("missing")],
    ["nothing", () => config.integer("nothing")],
    ["ratio", () => config.number("ratio", { exclusiveMin: 0.5 })],
    ["name", () => config.number("name")],
    ["count", () => config.boolean("count")],
    ["missing", () => config.boolean("missing")],
    ["count", () => config.string("count")],
    ["name", () => config.strings("name")],
    ["sizes", () => config.strings("sizes")],
    ["list", () => config.numbers("list")],
    ["list", () => config.object("list")],
    ["nested.deep.size", () => config.object("nested")?.object("deep")?.integer("size")],
    ["nested.deep.size", () => config.object("nested")?.object("deep")?.optionalNumber("size")],
  ])("names the field when %s is not as it should be", (field, act) => {
    expect(act).toThrow(invalid(field));
  });

  test.each([[Infinity], [NaN], [2 ** 53], [1e308 * 10]])("refuses %d as an integer", (value) => {
    expect(() => reader({ value }).integer("value")).toThrow(invalid("value"));
  });

  test.each([[null], [[]], ["x"], [1], [undefined]])("refuses %j as a whole file", (raw) => {
    expect(() => reader(raw)).toThrow(invalid(""));
  });

  test("says what was expected and what was there", () => {
    const act = () => reader({ layers: 1.5 }).integer("layers", { min: 1 });
    expect(act).toThrow(
      "config.json: Expected an integer of at least 1 for `layers` but received 1.5",
    );
  });

  test("sees own fields only", () => {
    const plain = reader({});
    for (const field of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
      expect(plain.has(field)).toBe(false);
      expect(plain.raw(field)).toBeUndefined();
      expect(plain.object(field)).toBeUndefined();
    }
    const tricky = reader(JSON.parse('{"__proto__": {"size": 1}, "hasOwnProperty": 2}'));
    expect(tricky.has("size")).toBe(false);
    expect(tricky.object("__proto__")?.integer("size")).toBe(1);
    expect(tricky.integer("hasOwnProperty")).toBe(2);
  });
});

describe("readConfig", () => {
  test("reads config.json", async () => {
    const config = await readConfig(directoryOf({ "config.json": '{"vocab_size": 8}' }));
    expect(config.integer("vocab_size")).toBe(8);
  });

  test("misses it by name", async () => {
    await expect(readConfig(scratch)).rejects.toEqual(code("ERR_MODEL_NOT_FOUND"));
  });

  test.each(["", "{", "[]", "null", '{"a": NaN}', "\ufeff{}", `{"a":${"[".repeat(1e5)}`])(
    "refuses %j",
    async (text) => {
      const directory = directoryOf({ "config.json": text.slice(0, 2e5) });
      await expect(readConfig(directory)).rejects.toEqual(code("ERR_CONFIG_INVALID"));
    },
  );

  test("refuses a huge file unread", async () => {
    const directory = directoryOf({ "config.json": " ".repeat(17 * 2 ** 20) });
    await expect(readConfig(directory)).rejects.toEqual(code("ERR_CONFIG_INVALID"));
  });
});

describe("architecture", () => {
  test.each([
    [{ architectures: ["LlamaForCausalLM"], model_type: "qwen2" }, "LlamaForCausalLM"],
    [{ model_type: "qwen2" }, "Qwen2ForCausalLM"],
    [{ architectures: null, model_type: "deepseek_v3" }, "DeepseekV3ForCausalLM"],
    [{ architectures: [], model_type: "gemma3_text" }, "Gemma3ForCausalLM"],
  ])("of %j", (raw, expected) => {
    expect(architecture(reader(raw))).toBe(expected);
  });

  test("of a multimodal wrapper is not supported, and the error says so", () => {
    const raw = { architectures: ["Gemma3ForConditionalGeneration"], text_config: {} };
    const act = () => architecture(reader(raw));
    expect(act).toThrow(code("ERR_MODEL_UNSUPPORTED"));
    expect(act).toThrow(/multimodal.*text_config/);
  });

  test("that is unknown or missing is an error", () => {
    const act = () => architecture(reader({ model_type: "constructor" }));
    expect(act).toThrow(code("ERR_MODEL_UNSUPPORTED"));
    expect(() => architecture(reader({}))).toThrow(invalid("architectures"));
  });
});

describe("readGenerationConfig", () => {
  const read = (generation: object | undefined, config: object = {}) => {
    const files = generation && { "generation_config.json": JSON.stringify(generation) };
    return readGenerationConfig(directoryOf(files ?? {}), reader(config));
  };

  test("reads what is there and nothing else", async () => {
    const generation = {
      eos_token_id: [2, 5, 2],
      bos_token_id: 1,
      do_sample: true,
      temperature: 0.6,
      top_k: 20,
      top_p: 0.95,
      min_p: 0,
      repetition_penalty: 1.05,
      transformers_version: "5.0.0",
    };
    expect(await read(generation, { eos_token_id: 9, pad_token_id: 0 })).toEqual({
      eosTokenIds: [2, 5],
      bosTokenId: 1,
      padTokenId: 0,
      doSample: true,
      temperature: 0.6,
      topK: 20,
      topP: 0.95,
      minP: 0,
      repetitionPenalty: 1.05,
    });
    expect(Object.keys(await read({ eos_token_id: 2 }))).toEqual(["eosTokenIds"]);
  });

  test("falls back to the tokens of config.json", async () => {
    expect((await read(undefined, { eos_token_id: 3 })).eosTokenIds).toEqual([3]);
    expect((await read({}, { eos_token_id: [3, 4] })).eosTokenIds).toEqual([3, 4]);
    expect((await read({ eos_token_id: null }, { eos_token_id: 3 })).eosTokenIds).toEqual([3]);
    expect((await read(undefined)).eosTokenIds).toEqual([]);
  });

  test.each([
    ["eos_token_id", { eos_token_id: -1 }],
    ["eos_token_id", { eos_token_id: 2 ** 32 - 1 }],
    ["eos_token_id", { eos_token_id: ["2"] }],
    ["eos_token_id", { eos_token_id: "2" }],
    ["temperature", { temperature: -1 }],
    ["temperature", { temperature: "1" }],
    ["top_k", { top_k: 1.5 }],
    ["top_p", { top_p: 2 }],
    ["min_p", { min_p: -0.1 }],
    ["repetition_penalty", { repetition_penalty: 0 }],
    ["do_sample", { do_sample: 1 }],
  ])("names a wrong %s", async (field, generation) => {
    await expect(read(generation)).rejects.toEqual(
      expect.objectContaining({
        code: "ERR_CONFIG_INVALID",
        details: expect.objectContaining({ field }),
      }),
    );
  });
});
