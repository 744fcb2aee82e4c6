/** The package in browsers: `connect` speaks Connect or gRPC-Web over fetch, to a server's web port. */

import { Client } from "./client.js";
import { InvalidArgumentError } from "./errors.js";
import { headersOf, isLoopback } from "./transport/address.js";
import { Calls } from "./transport/calls.js";
import { WebTransport, type WebProtocol } from "./transport/web.js";

export * from "./index.js";
export { type WebProtocol } from "./transport/web.js";

/** Options of `connect`. */
export interface ConnectOptions {
  /** Bearer token. It is only sent over TLS or within this machine. */
  token?: string;
  /** Seconds that a call may take, unless the call has its own; null has no limit. Default: 300. */
  timeout?: number | null;
  /** How often a call is sent again that an unavailable server did not take. Default: 4. */
  retries?: number;
  /** Whether to send the token over a network without TLS. */
  allowPlaintextToken?: boolean;
  /** What travels over HTTP. Default: "connect". */
  protocol?: WebProtocol;
  /** In place of the global fetch. */
  fetch?: typeof globalThis.fetch;
}

/**
 * A client of the server whose web port (`groupconv serve --web-port`) is at a URL.
 *
 * @param target such as "http://localhost:8080"; of a page that the server itself serves, `location.origin`.
 * @throws InvalidArgumentError if it is no URL, the token would travel unencrypted, or another option is invalid.
 *
 * @example
 * const client = connect(location.origin);
 * const y = await client.conv2d(x, w, { padding: 1 });
 */
export function connect(target: string, options: ConnectOptions = {}): Client {
  let url: URL;
  try {
    url = new URL(target);
  } catch {
    throw InvalidArgumentError.of("target", "a URL, such as 'http://localhost:8080'", target);
  }
  const { timeout = 300, retries = 4, protocol = "connect" } = options;
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const safe = url.protocol === "https:" || (options.allowPlaintextToken ?? false) || isLoopback(host);
  const transport = new WebTransport(target.replace(/\/$/, ""), protocol, options.fetch);
  return new Client(new Calls(target, transport, headersOf(options.token, target, safe), timeout, retries));
}
