/** TLS, tokens and their limits, against a server of its own. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  connect,
  ResourceExhaustedError,
  UnauthenticatedError,
  UnavailableError,
  type Client,
} from "../../src/node.js";
import { rejected } from "../errors.js";
import { BIN, start, type RunningServer } from "../server.js";

const folder = mkdtempSync(join(tmpdir(), "groupconv-"));
const [authority, tokens] = [join(folder, "client.pem"), join(folder, "tokens.toml")];
let server: RunningServer;
let token: string;
const clients: Client[] = [];

beforeAll(async () => {
  execFileSync(`${BIN}/python`, ["-m", "trustme", "--quiet", "--dir", folder]);
  const limits = ["--requests-per-second", "0.001", "--file", tokens];
  token = execFileSync(`${BIN}/groupconv`, ["token", "new", "alice", ...limits])
    .toString()
    .trim();
  const tls = ["--tls-cert", join(folder, "server.pem"), "--tls-key", join(folder, "server.key")];
  server = await start("--workers", "1", "--engine", "reference", "--tokens", tokens, ...tls);
});

afterAll(async () => {
  for (const client of clients) client.close();
  await server?.stop();
  rmSync(folder, { recursive: true });
});

function open(options: Parameters<typeof connect>[1]): Client {
  const client = connect(server.address.replace("127.0.0.1", "localhost"), { retries: 0, ...options });
  clients.push(client);
  return client;
}

test("with the authority's certificate and a token a call is answered, over its rate refused for some time", async () => {
  const client = open({ token, tls: { rootCertificates: authority } });
  expect((await client.status()).workers).toHaveLength(1);
  const error = await rejected(client.status());
  expect(error).toBeInstanceOf(ResourceExhaustedError);
  expect((error as ResourceExhaustedError).retryAfter).toBeGreaterThan(1);
});

test("without a token, or with another one, a call is refused", async () => {
  for (const wrong of ["", "another"]) {
    const client = open({ token: wrong, tls: { rootCertificates: readFileSync(authority) } });
    const error = await rejected(client.status());
    expect(error).toBeInstanceOf(UnauthenticatedError);
    expect(String(error)).toContain("give a token with the option token");
  }
});

test("without the authority's certificate, by another name, or without TLS there is no connection", async () => {
  for (const tls of [true, { rootCertificates: authority, serverName: "box" }, false]) {
    expect(await rejected(open({ token, tls }).status())).toBeInstanceOf(UnavailableError);
  }
});
