import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { toNodeHandler } from "../../lib/server/index.js";
import { FakeEngine } from "../support/fake-engine.js";
import { ask, post } from "../support/http.js";

async function listen(
  handler: (req: IncomingMessage, res: ServerResponse) => void,
): Promise<string> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const body = { model: "fake", prompt: "a", max_tokens: 3 };

test("the handler is an ordinary request listener", async () => {
  const url = await listen(toNodeHandler(new FakeEngine()));
  expect((await ask(url, "/v1/models")).status).toBe(200);
  expect((await post(url, "/v1/completions", body)).status).toBe(200);
});

test("it works under a mount point that the framework cuts off", async () => {
  const handler = toNodeHandler(new FakeEngine());
  const url = await listen((req, res) => {
    req.url = req.url!.replace("/llm", "");
    handler(req, res);
  });
  expect((await post(url, "/llm/v1/completions", body)).status).toBe(200);
});

test.each([
  ["object", (bytes: Buffer): unknown => JSON.parse(bytes.toString())],
  ["string", (bytes: Buffer): unknown => bytes.toString()],
  ["buffer", (bytes: Buffer): unknown => bytes],
])("it takes a body that the framework has read as %s", async (_, convert) => {
  const handler = toNodeHandler(new FakeEngine());
  const url = await listen((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => {
      Object.assign(req, { body: convert(Buffer.concat(chunks)) });
      handler(req, res);
    });
  });
  const reply = await post(url, "/v1/completions", body);
  expect(reply.status).toBe(200);
  expect(JSON.parse(reply.text).usage.completion_tokens).toBe(3);
});
