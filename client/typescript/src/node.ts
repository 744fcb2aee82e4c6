/** The package in Node: `connect` speaks gRPC over HTTP/2. */

import { Client } from "./client.js";
import { InvalidArgumentError } from "./errors.js";
import { Words } from "./text.js";
import { headersOf, isLocal } from "./transport/address.js";
import { Calls } from "./transport/calls.js";
import { GrpcTransport, type TlsOptions } from "./transport/grpc.js";

export * from "./index.js";
export { type Pem, type TlsOptions } from "./transport/grpc.js";

const TOKEN_VARIABLE = "GROUPCONV_TOKEN";

/** Options of `connect`. */
export interface ConnectOptions {
  /** Bearer token; without it the environment's GROUPCONV_TOKEN, "" sends none. It is only sent over TLS or within this machine. */
  token?: string;
  /** Whether to encrypt, and with which certificates; true trusts those of the system. */
  tls?: boolean | TlsOptions;
  /** Seconds that a call may take, unless the call has its own; null has no limit. Default: 300. */
  timeout?: number | null;
  /** How often a call is sent again that an unavailable server did not take. Default: 4. */
  retries?: number;
  /** Whether to send the token over a network without TLS. */
  allowPlaintextToken?: boolean;
  /** Largest request or answer. Default: 512 MiB. */
  maxMessageBytes?: number;
}

/**
 * A client of the server at `target`. It connects at the first call.
 *
 * @param target "host:port" or "unix:path".
 * @throws InvalidArgumentError if the token would travel unencrypted, a certificate is not PEM, or another option is invalid.
 *
 * @example
 * const client = connect("localhost:50051");
 * const y = await client.conv2d(x, w, { padding: 1 });
 * client.close();
 */
export function connect(target: string, options: ConnectOptions = {}): Client {
  if (typeof target !== "string" || !target) {
    throw InvalidArgumentError.of("target", "an address, as 'host:port' or 'unix:path'", target);
  }
  const { tls = false, timeout = 300, retries = 4, maxMessageBytes = 512 * 2 ** 20 } = options;
  const token = options.token ?? environmentToken();
  const headers = headersOf(token, target, Boolean(tls) || (options.allowPlaintextToken ?? false) || isLocal(target));
  const transport = new GrpcTransport(target, tls === true ? {} : tls || undefined, maxMessageBytes);
  return new Client(new Calls(target, transport, headers, timeout, retries));
}

function environmentToken(): string | undefined {
  const token = process.env[TOKEN_VARIABLE];
  if (token !== undefined && !token.trim()) {
    throw InvalidArgumentError.of(TOKEN_VARIABLE, "a token, or the variable not set", new Words("an empty value"));
  }
  return token;
}
