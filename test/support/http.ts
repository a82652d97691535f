import { Agent, request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { connect, type Socket } from "node:net";
import { onTestFinished } from "vitest";
import type { Engine } from "../../lib/engine/types.js";
import { startServer, type RunningServer, type ServerOptions } from "../../lib/server/index.js";

export interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

export interface Ask {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  readonly agent?: Agent;
}

/** One request by node:http, which sends the path as it is. */
export function ask(url: string, path: string, options: Ask = {}): Promise<Reply> {
  const { hostname, port } = new URL(url);
  const { method = "GET", headers = {}, body, agent } = options;
  return new Promise((resolve, reject) => {
    const req = httpRequest(
      { hostname, port, path, method, headers, ...(agent ? { agent } : {}) },
      (res) => {
        const chunks: Buffer[] = [];
        res.on("data", (chunk: Buffer) => chunks.push(chunk));
        res.on("error", reject);
        res.on("end", () =>
          resolve({
            status: res.statusCode ?? 0,
            headers: res.headers,
            text: Buffer.concat(chunks).toString(),
          }),
        );
      },
    );
    req.on("error", reject);
    req.end(body);
  });
}

/** POSTs a JSON body. */
export function post(url: string, path: string, body: unknown): Promise<Reply> {
  const headers = { "content-type": "application/json" };
  return ask(url, path, { method: "POST", headers, body: JSON.stringify(body) });
}

/** The `error` of a reply in OpenAI's shape; fails when the reply has another shape. */
export function errorOf(reply: Reply): {
  message: string;
  type: string;
  param: string | null;
  code: string | null;
} {
  const { error, ...rest } = JSON.parse(reply.text);
  const keys = Object.keys(error).sort().join();
  if (keys !== "code,message,param,type" || Object.keys(rest).length > 0) {
    throw new Error(`Not an OpenAI error: ${reply.text}`);
  }
  return error;
}

/** The data of the events in the text of a stream, "[DONE]" as it is. */
export function eventsOf(text: string): unknown[] {
  const events = text.split("\n\n");
  if (events.pop() !== "") throw new Error(`The stream ends inside an event: ${text.slice(-100)}`);
  return events.map((event) => {
    if (!event.startsWith("data: ")) throw new Error(`Not an event: ${event}`);
    return event === "data: [DONE]" ? "[DONE]" : JSON.parse(event.slice(6));
  });
}

/** Serves an engine on a free port of 127.0.0.1 until the test ends. */
export async function serve(engine: Engine, options: ServerOptions = {}): Promise<RunningServer> {
  const server = await startServer(engine, { port: 0, ...options });
  onTestFinished(() => server.close(0));
  return server;
}

/** A bare connection, closed when the test ends. */
export function connectTo(server: { readonly port: number }): Socket {
  const socket = connect({ host: "127.0.0.1", port: server.port });
  socket.on("error", () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

/** All that a bare connection receives until the other side closes it. */
export function receiveAll(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
    socket.on("close", () => resolve(text));
  });
}

/** Waits until the condition holds; fails after `timeoutMs`. */
export async function until(condition: () => boolean, timeoutMs = 5000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`Not within ${timeoutMs} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
