import { expect, test } from "vitest";
import { runCli, startCli } from "../support/cli.js";
import { demoModel } from "../support/demo.js";

const model = ["--model", demoModel];

/** Words, exit code, what standard error says. */
const mistakes: [string[], number, RegExp][] = [
  [[], 2, /Usage: pagoda COMMAND/],
  [["serv"], 2, /no command "serv"; did you mean `pagoda serve`\?/],
  [["frobnicate"], 2, /no command "frobnicate"\n/],
  [["--frobnicate"], 2, /no option --frobnicate/],
  [["help", "nothing"], 2, /no command "nothing"/],
  [["generate"], 2, /--model DIR is missing\nRun `pagoda generate --help`/],
  [["generate", "--prompt", "a"], 2, /--model DIR is missing/],
  [["chat"], 2, /--model DIR is missing/],
  [["serve"], 2, /--model DIR is missing/],
  [["logits", ...model, "--out", "x"], 2, /--ids IDS is missing/],
  [["logits", ...model, "--ids", "1"], 2, /--out FILE is missing/],
  [["inspect"], 2, /DIR is missing/],
  [["inspect", "a", "b"], 2, /Unexpected argument "b"/],
  [["generate", ...model], 2, /--prompt TEXT or --prompt-ids IDS is missing/],
  [["generate", ...model, "--prompt", "a", "--prompt-ids", "1"], 2, /not both/],
  [["generate", ...model, "--prompt", "a", "b"], 2, /Unexpected argument "b"/],
  [["generate", "--modle", "x"], 2, /has no option --modle; did you mean --model\?/],
  [["generate", "-m", "x"], 2, /has no option -m/],
  [["generate", "--model"], 2, /--model needs a value: --model DIR/],
  [["generate", "--model=", "--prompt", "a"], 1, /`model`.*\(ERR_ARGUMENT\)\n$/],
  [["generate", ...model, "--prompt", "--json"], 2, /write --prompt=--json/],
  [["generate", ...model, "--prompt", "a", "--json=yes"], 2, /--json takes no value/],
  [["generate", ...model, "--prompt", "a", "--max-tokens", "0"], 2, /--max-tokens takes a whole/],
  [["generate", ...model, "--prompt", "a", "--max-tokens", "5.0"], 2, /not "5.0"/],
  [["generate", ...model, "--prompt", "a", "--max-tokens", "0x10"], 2, /not "0x10"/],
  [["generate", ...model, "--prompt", "a", "--max-tokens", " 5"], 2, /not " 5"/],
  [["generate", ...model, "--prompt", "a", "--max-tokens", ""], 2, /not ""/],
  [["generate", ...model, "--prompt", "a", "--temperature", "1x"], 2, /--temperature takes a/],
  [["generate", ...model, "--prompt", "a", "--temperature", "-1"], 2, /not "-1"/],
  [["generate", ...model, "--prompt", "a", "--temperature", "Infinity"], 2, /not "Infinity"/],
  [["generate", ...model, "--prompt", "a", "--temperature", "1e999"], 2, /not "1e999"/],
  [
    ["generate", ...model, "--prompt", "a", "--top-p", "0"],
    2,
    /--top-p takes a number in \(0, 1\]/,
  ],
  [["generate", ...model, "--prompt", "a", "--min-p", "1.1"], 2, /--min-p/],
  [["generate", ...model, "--prompt", "a", "--top-k", "-1"], 2, /--top-k/],
  [["generate", ...model, "--prompt", "a", "--seed", "9007199254740993"], 2, /--seed/],
  [["generate", ...model, "--prompt", "a", "--dtype", "f16"], 2, /--dtype takes one of auto, f32/],
  [["generate", ...model, "--prompt", "a", "--threads", "0"], 2, /--threads/],
  [
    ["generate", ...model, "--prompt", "a", "--n", "0"],
    2,
    /--n takes a whole number in \[1, 128\]/,
  ],
  [["generate", ...model, "--prompt", "a", "--best-of", "129"], 2, /--best-of takes a whole/],
  [["generate", ...model, "--prompt", "a", "--beam-width", "65"], 2, /--beam-width takes a whole/],
  [["generate", ...model, "--prompt", "a", "--length-penalty", "1"], 2, /needs --beam-width/],
  [["generate", ...model, "--prompt", "a", "--early-stopping", "true"], 2, /needs --beam-width/],
  [
    ["generate", ...model, "--prompt", "a", "--beam-width", "2", "--early-stopping", "yes"],
    2,
    /--early-stopping takes one of true, false, never/,
  ],
  [
    ["generate", ...model, "--prompt", "a", "--n", "3", "--best-of", "2"],
    1,
    /^pagoda: .*`bestOf`.*\(ERR_ARGUMENT\)\n$/,
  ],
  [
    ["generate", ...model, "--prompt", "a", "--beam-width", "2", "--temperature", "0"],
    1,
    /^pagoda: .*`temperature`.*\(ERR_ARGUMENT\)\n$/,
  ],
  [["generate", ...model, "--prompt-ids", "1,,2"], 2, /--prompt-ids takes a whole number/],
  [["generate", ...model, "--prompt-ids", "1;2"], 2, /not "1;2"/],
  [["serve", ...model, "--port", "70000"], 2, /--port/],
  [["serve", ...model, "--port", "http"], 2, /--port/],
  [["serve", ...model, "--host", ""], 2, /--host/],
  [
    ["generate", "--model", "/nowhere", "--prompt", "a"],
    1,
    /^pagoda: .*\(ERR_MODEL_NOT_FOUND\)\n$/,
  ],
  [["chat", "--model", "/nowhere"], 1, /^pagoda: .*\(ERR_MODEL_NOT_FOUND\)\n$/],
  [["serve", "--model", "/nowhere", "--port", "0"], 1, /^pagoda: .*\(ERR_MODEL_NOT_FOUND\)\n$/],
  [["inspect", "/nowhere"], 1, /^pagoda: .*\(ERR_MODEL_NOT_FOUND\)\n$/],
  [["generate", ...model, "--prompt", ""], 1, /^pagoda: .*\(ERR_EMPTY_PROMPT\)\n$/],
  [["generate", ...model, "--prompt-ids", "5,99999"], 1, /^pagoda: .*\(ERR_TOKEN_ID\)\n$/],
  [
    ["generate", ...model, "--prompt", "a ".repeat(5000)],
    1,
    /^pagoda: .*\(ERR_CONTEXT_LENGTH\)\n$/,
  ],
  [
    ["generate", ...model, "--prompt", "a", "--stop", ""],
    1,
    /^pagoda: .*`stop.*\(ERR_ARGUMENT\)\n$/,
  ],
  [["logits", ...model, "--ids", "99999", "--out", "/dev/null"], 1, /\(ERR_TOKEN_ID\)\n$/],
  [
    ["logits", ...model, "--ids", "1", "--out", "/nowhere/x"],
    1,
    /^pagoda: .*\/nowhere\/x.*\(ENOENT\)\n$/,
  ],
  [["serve", ...model, "--host", "192.0.2.1"], 1, /--host 192.0.2.1 is not an address of this/],
];

test.each(mistakes)("pagoda %j", async (words, code, message) => {
  const result = await runCli(words);
  expect(result.stderr).toMatch(message);
  expect(result.stderr).not.toMatch(/^\s+at /m);
  expect([result.code, result.stdout]).toEqual([code, ""]);
});

test("help and version go to standard output", async () => {
  const all = await runCli(["--help"]);
  expect([all.code, all.stderr]).toEqual([0, ""]);
  expect(await runCli(["help"])).toEqual(all);
  for (const name of ["generate", "chat", "serve", "logits", "inspect"]) {
    expect(all.stdout).toContain(`  ${name} `);
    const one = await runCli([name, "--help"]);
    expect([one.code, one.stderr]).toEqual([0, ""]);
    expect(one.stdout).toContain(`Usage: pagoda ${name}`);
    expect(await runCli(["help", name])).toEqual(one);
  }
  const version = await runCli(["--version"]);
  expect(version).toMatchObject({ code: 0, stderr: "" });
  expect(version.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

test("a stack is shown with PAGODA_DEBUG", async () => {
  const { result } = startCli(["inspect", "/nowhere"], { PAGODA_DEBUG: "1" });
  expect((await result).stderr).toMatch(/^\s+at /m);
});
