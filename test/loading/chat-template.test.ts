import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { renderChat } from "../../lib/loading/chat-template.js";
import { templateMessages, type ChatMessage, type ChatTemplates } from "../../lib/loading/chat.js";
import { readChatTemplates, readTokenizerFiles } from "../../lib/loading/tokenizer-files.js";

const fixtures = new URL("../fixtures/tokenizers/", import.meta.url).pathname;

/** Rendered by Hugging Face transformers. */
interface Golden {
  readonly tokenizer: string;
  readonly name: string;
  readonly messages: readonly ChatMessage[];
  readonly tools?: unknown;
  readonly add_generation_prompt?: boolean;
  readonly enable_thinking?: boolean;
  readonly text?: string;
  readonly error?: string;
}

const goldens = JSON.parse(readFileSync(`${fixtures}chat-golden.json`, "utf8")) as Golden[];

function render(templates: ChatTemplates, golden: Partial<Golden>): string {
  const { messages = [], tools = null, enable_thinking } = golden;
  return renderChat(templates, {
    messages: templateMessages(messages, Object.values(templates.sources)),
    addGenerationPrompt: golden.add_generation_prompt ?? false,
    tools,
    kwargs: enable_thinking === undefined ? {} : { enable_thinking },
  });
}

function templatesOf(name: string): ChatTemplates {
  return readChatTemplates(fixtures + name, readTokenizerFiles(fixtures + name));
}

test.each(goldens)("$tokenizer renders '$name' as the reference does", (golden) => {
  const templates = templatesOf(golden.tokenizer);
  const act = () => render(templates, golden);
  if (golden.error === undefined) expect(act()).toBe(golden.text);
  else expect(act).toThrow(expect.objectContaining({ code: "ERR_CHAT_TEMPLATE" }));
});

const one = (source: string): ChatTemplates => ({ sources: { default: source }, variables: {} });
const user = (content: ChatMessage["content"]): ChatMessage => ({
  role: "user",
  content: content!,
});

describe("variables", () => {
  test("tools and documents are none when absent", () => {
    expect(render(one("{{ tools is none and documents is none }}"), {})).toBe("true");
  });

  test("the tool_use template is taken when there are tools", () => {
    const templates = { sources: { default: "plain", tool_use: "tools" }, variables: {} };
    expect(render(templates, {})).toBe("plain");
    expect(render(templates, { tools: [] })).toBe("tools");
  });

  test("strftime_now knows Python's directives", () => {
    const request = { messages: [], addGenerationPrompt: false, tools: null, kwargs: {} };
    const now = () => new Date(2024, 6, 4, 15, 5, 9);
    const source = "{{ strftime_now('%d %b %Y %B %A %H:%M:%S %I %p %y %m 100%%') }}";
    const expected = "04 Jul 2024 July Thursday 15:05:09 03 PM 24 07 100%";
    expect(renderChat(one(source), request, now)).toBe(expected);
  });

  test("range is Python's", () => {
    const source =
      "{{ range(3)|join(',') }} {{ range(5, 1, -2)|join(',') }} {{ range(2, 1)|length }}";
    expect(render(one(source), {})).toBe("0,1,2 5,3 0");
  });
});

describe("parts of content", () => {
  const parts = [
    { type: "text", text: "a" },
    { type: "text", text: "b" },
  ];

  test("are joined for a template that wants text", () => {
    expect(render(one("{{ messages[0].content }}"), { messages: [user(parts)] })).toBe("a\nb");
  });

  test.each(["message.content", "message['content']", 'message["content"]', "content"])(
    "are kept for a template that loops over %s",
    (expression) => {
      const source =
        "{% for message in messages %}{% set content = message.content %}" +
        `{% for part in ${expression} %}[{{ part.text }}]{% endfor %}{% endfor %}`;
      expect(render(one(source), { messages: [user(parts)] })).toBe("[a][b]");
    },
  );

  test("that are no text are refused by name", () => {
    const messages = [user([{ type: "image_url" }])];
    expect(() => render(one("x"), { messages })).toThrow(
      expect.objectContaining({
        code: "ERR_ARGUMENT",
        details: expect.objectContaining({ parameter: "messages[0].content[0]" }),
      }),
    );
  });
});

test("arguments of tool calls reach the template as objects", () => {
  const call = (text: string) => ({ function: { name: "f", arguments: text } });
  const tool_calls = [call('{"a":1}'), call("[1]"), call("not json")];
  const messages = [{ role: "assistant", content: null, tool_calls }];
  const source =
    "{% for c in messages[0].tool_calls %}{{ c.function.arguments | tojson }};{% endfor %}";
  expect(render(one(source), { messages })).toBe('{"a": 1};"[1]";"not json";');
});

test.each([
  ["no list", "x", "messages"],
  ["a null message", [null], "messages[0]"],
  ["a message without role", [{ content: "x" }], "messages[0].role"],
  ["a role that is no text", [user("a"), { role: 1 }], "messages[1].role"],
])("%s is refused by name", (_, messages, parameter) => {
  expect(() => templateMessages(messages as never, [])).toThrow(
    expect.objectContaining({ details: expect.objectContaining({ parameter }) }),
  );
});

test("the words of raise_exception are the reason", () => {
  expect(() => render(one("{{ raise_exception('No ' + 'way') }}"), {})).toThrow(
    expect.objectContaining({ details: { reason: "No way" } }),
  );
});

test.each([
  ["is missing", { sources: {}, variables: {} }],
  ["does not parse", one("{% if")],
  ["uses an unknown tag", one("{% include '/etc/passwd' %}")],
  ["refuses the messages", one("{{ raise_exception('no') }}")],
  ["reaches for prototypes", one("{{ ''.constructor.constructor('return process')() }}")],
  [
    "recurses without end",
    one(
      "{% set ns = namespace() %}{% macro f(x) %}{{ ns.f(x) }}{% endmacro %}" +
        "{% set ns.f = f %}{{ f(1) }}",
    ),
  ],
  ["nests too deeply", one(`{{ ${"(".repeat(50_000)}1${")".repeat(50_000)} }}`)],
  ["makes a huge range", one("{{ range(1000000000) | length }}")],
  ["makes an endless range", one("{{ range(0, 1, 0) | length }}")],
  [
    "doubles a text without end",
    one(
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}" +
        "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    ),
  ],
  [
    "doubles a list without end",
    one(
      "{% set ns = namespace(s=[1, 2, 3]) %}{% for i in range(99) %}" +
        "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}",
    ),
  ],
])("a template that %s gives ERR_CHAT_TEMPLATE", (_, templates) => {
  const act = () => render(templates, { messages: [user("x")] });
  expect(act).toThrow(expect.objectContaining({ code: "ERR_CHAT_TEMPLATE" }));
});

test.each(["__proto__", "constructor", "toString", "prototype"])(
  "%s of a message is undefined",
  (name) => {
    const source = `{{ messages[0].${name} is defined }}{{ messages.${name} is defined }}`;
    expect(render(one(source), { messages: [user("x")] })).toBe("falsefalse");
  },
);
