import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { PagodaError } from "../errors.js";
import type { ChatRequest, ChatTemplates } from "./chat.js";

/** Longest text or list that a template may make, in UTF-16 units or items. */
const maxValueLength = 8 * 2 ** 20;
/** Longest list that `range` may give; templates count messages with it. */
const maxRangeLength = 100_000;

/**
 * Renders the conversation as Hugging Face transformers does: `tool_use` is the template when there
 * are tools and one of that name, `tools` and `documents` are `none` when absent, blocks are
 * trimmed, and `raise_exception` refuses the messages. Messages are data: a template reaches
 * nothing but them, its variables and four functions.
 *
 * @throws ERR_CHAT_TEMPLATE when the template is missing, invalid or refuses the messages.
 */
export function renderChat(
  templates: ChatTemplates,
  request: ChatRequest,
  now: () => Date = () => new Date(),
): string {
  const source = selectTemplate(templates, request);
  try {
    const environment = createEnvironment(templates, request, now);
    return String(boundedInterpreter(environment).run(new Template(source).parsed).value);
  } catch (cause) {
    const reason = (cause as Error).message;
    const message = `The chat template failed: ${reason}`;
    throw new PagodaError("ERR_CHAT_TEMPLATE", message, { cause, details: { reason } });
  }
}

/** The part of the library that is used here; its declarations do not resolve under nodenext. */
interface JinjaInterpreter {
  run(program: unknown): JinjaValue;
  evaluate(statement: unknown, environment: unknown): JinjaValue;
}

interface JinjaValue {
  readonly value: unknown;
}

/**
 * Stops a template whose texts or lists grow without bound before they fill the heap, since a
 * thread that runs out of memory in one large step takes the whole process with it.
 */
function boundedInterpreter(environment: unknown): JinjaInterpreter {
  const interpreter = new Interpreter(environment) as JinjaInterpreter;
  const evaluate = interpreter.evaluate.bind(interpreter);
  interpreter.evaluate = (statement, scope) => {
    const result = evaluate(statement, scope);
    const { value } = result;
    const length = typeof value === "string" || Array.isArray(value) ? value.length : 0;
    if (length <= maxValueLength) return result;
    throw new Error(`a text or list is longer than ${maxValueLength}`);
  };
  return interpreter;
}

function selectTemplate({ sources }: ChatTemplates, request: ChatRequest): string {
  const hasToolTemplate = request.tools !== null && Object.hasOwn(sources, "tool_use");
  const name = hasToolTemplate ? "tool_use" : "default";
  const source = Object.hasOwn(sources, name) ? sources[name] : undefined;
  if (source !== undefined) return source;
  throw new PagodaError("ERR_CHAT_TEMPLATE", "The tokenizer has no chat template");
}

/** Jinja's constants, in both of its spellings. */
const constants = { true: true, false: false, none: null, True: true, False: false, None: null };

function createEnvironment(
  templates: ChatTemplates,
  request: ChatRequest,
  now: () => Date,
): Environment {
  const environment = new Environment();
  const variables = {
    documents: null,
    ...templates.variables,
    ...request.kwargs,
    messages: request.messages,
    tools: request.tools,
    add_generation_prompt: request.addGenerationPrompt,
    raise_exception: refuse,
    strftime_now: (format: string) => formatDate(now(), String(format)),
    range: boundedRange,
    ...constants,
  };
  for (const [name, value] of Object.entries(variables)) environment.set(name, value);
  return environment;
}

function refuse(message: unknown): never {
  throw new Error(String(message));
}

/** Python's `range`, as a list. */
function boundedRange(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length <= maxRangeLength) return Array.from({ length }, (_, i) => start + i * step);
  throw new Error(`range() is limited to ${maxRangeLength} numbers`);
}

/** The directives of Python's `strftime` that chat templates use, in its C locale. */
function formatDate(date: Date, format: string): string {
  const english = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const directives: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    y: () => twoDigits(date.getFullYear() % 100),
    m: () => twoDigits(date.getMonth() + 1),
    d: () => twoDigits(date.getDate()),
    B: () => english({ month: "long" }),
    b: () => english({ month: "short" }),
    A: () => english({ weekday: "long" }),
    a: () => english({ weekday: "short" }),
    H: () => twoDigits(date.getHours()),
    I: () => twoDigits(date.getHours() % 12 || 12),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    M: () => twoDigits(date.getMinutes()),
    S: () => twoDigits(date.getSeconds()),
    "%": () => "%",
  };
  return format.replace(/%([YymdBbAaHIpMS%])/g, (_, name: string) => directives[name]!());
}

function twoDigits(value: number): string {
  return String(value).padStart(2, "0");
}
