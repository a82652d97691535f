import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, relative } from "node:path";
import { afterAll, expect, test } from "vitest";
import { openModelDirectory } from "../../lib/loading/model-directory.js";

const scratch = mkdtempSync(join(tmpdir(), "pagoda-directory-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const code = (expected: string) => expect.objectContaining({ code: expected });

/** A model without weights to speak of: one tensor of no elements. */
function model(): string {
  const directory = mkdtempSync(join(scratch, "tiny-"));
  const header = '{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}';
  const length = Buffer.alloc(8);
  length.writeUInt32LE(header.length);
  const config = { architectures: ["LlamaForCausalLM"], eos_token_id: 2 };
  writeFileSync(join(directory, "model.safetensors"), Buffer.concat([length, Buffer.from(header)]));
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  return directory;
}

test("opens everything but the tokenizer", async () => {
  const directory = model();
  const opened = await openModelDirectory(relative(process.cwd(), directory));
  expect(opened).toMatchObject({ path: directory, name: basename(directory) });
  expect(opened.config.strings("architectures")).toEqual(["LlamaForCausalLM"]);
  expect([...opened.checkpoint.tensors.keys()]).toEqual(["w"]);
  expect(opened.generation.eosTokenIds).toEqual([2]);
});

test.each(["config.json", "model.safetensors"])("needs %s", async (file) => {
  const directory = model();
  rmSync(join(directory, file));
  await expect(openModelDirectory(directory)).rejects.toEqual(code("ERR_MODEL_NOT_FOUND"));
});

test("a path that is missing, or a file, gives ERR_MODEL_NOT_FOUND", async () => {
  const paths = [join(scratch, "missing"), join(model(), "config.json")];
  for (const path of paths) {
    await expect(openModelDirectory(path)).rejects.toEqual(code("ERR_MODEL_NOT_FOUND"));
  }
});

test.each([[undefined], [null], [1], [""], ["a\0b"], [{}]])("%j is no path", async (path) => {
  const expected = expect.objectContaining({
    code: "ERR_ARGUMENT",
    details: expect.objectContaining({ parameter: "model" }),
  });
  await expect(openModelDirectory(path as never)).rejects.toEqual(expected);
});

test("stops when its signal has fired", async () => {
  const opening = openModelDirectory(model(), { signal: AbortSignal.abort() });
  await expect(opening).rejects.toEqual(code("ERR_ABORTED"));
});

const demo = new URL("../../models/demo/", import.meta.url).pathname;

test.skipIf(!existsSync(`${demo}model.safetensors`))("opens the demo model", async () => {
  const copy = join(scratch, "demo");
  cpSync(demo, copy, { recursive: true });
  const { config, checkpoint, generation } = await openModelDirectory(copy);
  expect(config.integer("vocab_size", { min: 1 })).toBeGreaterThan(0);
  expect(checkpoint.tensors.size).toBeGreaterThan(10);
  expect(generation.eosTokenIds.length).toBeGreaterThan(0);
});
