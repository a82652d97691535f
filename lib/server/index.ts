/**
 * OpenAI-compatible HTTP endpoints over an engine of this process.
 *
 * @packageDocumentation
 */
export { toNodeHandler, type NodeHandler } from "./handler.js";
export type { HandlerOptions } from "./options.js";
export { startServer, type RunningServer, type ServerOptions } from "./server.js";
