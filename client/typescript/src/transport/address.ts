/** Addresses and tokens: a token is only sent over TLS or within this machine. */

import { InvalidArgumentError } from "../errors.js";
import { Words } from "../text.js";

/** Whether a gRPC target or a host names this machine. Only the text counts; no name is resolved. */
export function isLocal(target: string): boolean {
  if (/^unix(-abstract)?:/.test(target)) return true;
  const addresses = target.replace(/^(dns|ipv4|ipv6):(\/\/[^/]*\/)?/, "").split(",");
  return addresses.every((address) => isLoopback(hostOf(decodeURIComponent(address))));
}

/** Whether a host is `localhost` or a loopback address. */
export function isLoopback(host: string): boolean {
  return host.toLowerCase() === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/**
 * The metadata of every call.
 *
 * @param where the target, for errors.
 * @param safe whether a token may be sent: over TLS, within this machine, or as the caller insists.
 * @throws InvalidArgumentError if a token would travel unencrypted, or is not ASCII without white space.
 */
export function headersOf(token: string | undefined, where: string, safe: boolean): Record<string, string> {
  if (!token) return {};
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw InvalidArgumentError.of("token", "ASCII without white space", new Words(`${token.length} characters`));
  }
  if (!safe) {
    const expected = "TLS, or allowPlaintextToken: true on a trusted network";
    throw InvalidArgumentError.of("token", expected, new Words(`${where} without TLS`));
  }
  return { authorization: `Bearer ${token}` };
}

function hostOf(address: string): string {
  if (address.startsWith("[")) return address.slice(1).split("]")[0]!;
  return address.split(":").length > 2 ? address : address.split(":")[0]!;
}
