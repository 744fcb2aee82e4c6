/** Deadlines, cancellation, retries, tokens and lost servers. */

import { createConnection, createServer, type AddressInfo, type Server } from "node:net";
import { afterAll, describe, expect, inject, test } from "vitest";
import { connect as connectWeb } from "../../src/browser.js";
import {
  CancelledError,
  connect,
  ConnectError,
  DeadlineExceededError,
  InvalidArgumentError,
  Tensor,
  GroupconvError,
} from "../../src/node.js";
import { caught, rejected } from "../errors.js";
import { TRANSPORTS } from "../transports.js";

const large = Tensor.zeros([1, 32, 64, 64]);
const kernel = Tensor.zeros([32, 32, 9, 9]);

describe.each(TRANSPORTS)("over $name", ({ open }) => {
  const client = open();
  afterAll(() => client.close());

  test("a deadline ends a call", async () => {
    expect(await rejected(client.conv2d(large, kernel, { timeout: 0.001 }))).toBeInstanceOf(DeadlineExceededError);
  });

  test("a signal ends a call, before and while it runs", async () => {
    const reason = new Error("enough");
    expect(await rejected(client.status({ signal: AbortSignal.abort(reason) }))).toMatchObject({
      name: "CancelledError",
      cause: reason,
    });
    const controller = new AbortController();
    const call = rejected(client.conv2d(large, kernel, { signal: controller.signal }));
    controller.abort();
    expect(await call).toBeInstanceOf(CancelledError);
  });

  test("errors of arguments come before anything is sent", async () => {
    const error = await rejected(client.conv2d(large, kernel, { groups: 5 }));
    expect(error).toMatchObject({ field: "steps[0].spec.groups", requestId: "", got: 5 });
    expect(await rejected(client.conv2d(large, kernel, { strides: 2 } as object))).toBeInstanceOf(InvalidArgumentError);
    expect(await rejected(client.conv1d(large, kernel))).toMatchObject({
      message: "weight: expected 3 dimensions for 1-D, got (32, 32, 9, 9)",
    });
    expect(await rejected(client.conv2d(large, kernel, { timeout: "3" as never }))).toMatchObject({ field: "timeout" });
  });

  test("the server's errors name the field and the request", async () => {
    const error = await rejected(client.conv2d(large, kernel, { cut: "channel" }));
    expect(error).toMatchObject({ name: "InvalidArgumentError", field: "cut", violations: [{ field: "cut" }] });
    expect(error).toHaveProperty("requestId", expect.stringMatching(/./));
  });

  test("a closed client takes no calls", async () => {
    const closed = open();
    closed.close();
    expect(await rejected(closed.status())).toMatchObject({
      message: "client: expected an open client, got a closed one",
    });
  });
});

test("nobody at the address", async () => {
  const port = await freePort();
  for (const client of [
    connect(`localhost:${port}`, { retries: 1 }),
    connectWeb(`http://localhost:${port}`, { retries: 1 }),
  ]) {
    const error = await rejected(client.status());
    expect(error).toBeInstanceOf(ConnectError);
    expect(String(error)).toContain("no server accepts connections there");
    client.close();
  }
  const client = connect(`localhost:${port}`);
  const stream = client.streamConv2d([[[1]]], [[[[1]]]], { timeout: 0.5 });
  expect(["UNAVAILABLE", "DEADLINE_EXCEEDED"]).toContain(((await rejected(stream.tensor())) as GroupconvError).status);
  client.close();
});

test("a call is sent again after a lost connection, as often as the client allows", async () => {
  const [host, port] = inject("address").split(":");
  for (const retries of [0, 20]) {
    let connections = 0;
    const relay = createServer((socket) => {
      socket.on("error", () => undefined);
      if (++connections === 1) return socket.destroy();
      const server = createConnection(Number(port), host).on("error", () => undefined);
      return socket
        .pipe(server)
        .pipe(socket)
        .on("close", () => server.destroy());
    });
    const client = connect(`127.0.0.1:${await listening(relay)}`, { retries });
    if (retries) expect((await client.status()).workers).toHaveLength(2);
    else expect(await rejected(client.status())).toBeInstanceOf(ConnectError);
    client.close();
    await new Promise((resolve) => relay.close(resolve));
  }
});

test("a token is sent over TLS or within this machine alone", () => {
  expect(connect("localhost:1", { token: "secret" }).target).toBe("localhost:1");
  expect(connect("unix:/tmp/s", { token: "secret" }).target).toBe("unix:/tmp/s");
  expect(connect("box:1", { token: "secret", tls: true }).target).toBe("box:1");
  expect(connect("box:1", { token: "secret", allowPlaintextToken: true }).target).toBe("box:1");
  expect(connectWeb("https://box", { token: "secret" }).target).toBe("https://box");
  for (const make of [
    () => connect("box:1", { token: "secret" }),
    () => connectWeb("http://box", { token: "secret" }),
  ]) {
    expect(caught(make)).toMatchObject({ field: "token" });
    expect(String(caught(make))).not.toContain("secret");
  }
  expect(caught(() => connect("localhost:1", { token: "two words" }))).toMatchObject({ field: "token" });
  expect(caught(() => connect("box:1", { tls: { rootCertificates: Buffer.from("no") } }))).toMatchObject({
    field: "tls.rootCertificates",
  });
  expect(caught(() => connect("box:1", { tls: { rootCertificates: "/no/such/file.pem" } }))).toMatchObject({
    field: "tls.rootCertificates",
  });
  expect(caught(() => connect("box:1", { tls: { clientKey: "-----BEGIN " } }))).toMatchObject({
    field: "tls.clientCertificate",
  });
  expect(caught(() => connect(""))).toMatchObject({ field: "target" });
  expect(caught(() => connectWeb("localhost"))).toMatchObject({ field: "target" });
});

async function listening(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listening(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}
