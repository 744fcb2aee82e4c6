/** Calls over fetch with connect-web, in browsers. They can send one message and receive one: no streams. */

import { Code, ConnectError, type Transport as ConnectTransport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { UnimplementedError, type GroupconvError } from "../errors.js";
import { errorOf, type Detail } from "./status.js";
import type { Transport } from "./transport.js";

/** What travels over HTTP. */
export type WebProtocol = "connect" | "grpc-web";

/** Calls to a server's web port. */
export class WebTransport implements Transport {
  readonly #transport: ConnectTransport;

  constructor(baseUrl: string, protocol: WebProtocol, fetch?: typeof globalThis.fetch) {
    const options = { baseUrl, useBinaryFormat: true, ...(fetch ? { fetch } : {}) };
    this.#transport = protocol === "connect" ? createConnectTransport(options) : createGrpcWebTransport(options);
  }

  unary: Transport["unary"] = async (method, request, { deadline, signal, headers }) => {
    const timeout = deadline === undefined ? undefined : Math.max(1, deadline - Date.now());
    try {
      return (await this.#transport.unary(method, signal, timeout, headers, request)).message;
    } catch (error) {
      throw fromConnectError(ConnectError.from(error));
    }
  };

  upload: Transport["upload"] = async (method) => {
    throw noStream(method.name);
  };

  duplex: Transport["duplex"] = (method) => {
    throw noStream(method.name);
  };

  close(): void {
    // fetch has no connection of its own
  }
}

function noStream(method: string): GroupconvError {
  return new UnimplementedError(`${method}: a browser cannot send a stream; call it from Node`);
}

function fromConnectError(error: ConnectError): GroupconvError {
  // fetch itself failed: there was no answer
  const code = error.code === Code.Unknown && error.cause instanceof TypeError ? Code.Unavailable : error.code;
  const details = error.details.flatMap((detail): Detail[] =>
    "type" in detail && detail.value instanceof Uint8Array ? [{ type: detail.type, value: detail.value }] : [],
  );
  return errorOf(code, error.rawMessage, details, error.metadata.get("x-request-id") ?? "");
}
