/** A real server for the tests, from the repository's .venv, on free ports of loopback. */

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** Of gRPC, host:port. */
    address: string;
    /** URL of the web port. */
    webAddress: string;
  }
}

/** The folder of the commands `groupconv` and `python`. */
export const BIN = process.env["GROUPCONV_BIN"] ?? fileURLToPath(new URL("../../../.venv/bin", import.meta.url));

export interface RunningServer {
  /** Of gRPC, host:port. */
  readonly address: string;
  /** What the server printed while it started. */
  readonly printed: string;
  stop(): Promise<void>;
}

/** Starts a server, and waits until it serves. */
export async function start(...options: string[]): Promise<RunningServer> {
  const always = ["--port", "0", "--executor", "local", "--threads", "1"];
  const server = spawn(`${BIN}/groupconv`, ["serve", ...always, ...options], {
    env: { ...process.env, GROUPCONV_TUNE: "off" },
  });
  const exited = new Promise<void>((resolve) => server.once("close", () => resolve()));
  let printed = "";
  const address = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      printed += chunk.toString();
      const found = /is serving with .* on (\S+)\n/.exec(printed);
      if (found) resolve(found[1]!);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    server.once("error", reject);
    server.once("close", () => reject(new Error(`the server ended: ${printed}`)));
  });
  const stop = async () => {
    server.kill("SIGTERM");
    await exited;
  };
  return { address, printed, stop };
}

/** The server of all tests that need no other one. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await start("--workers", "2", "--web-port", "0");
  const web = /on (http:\/\/\S+?)\/?\s/.exec(server.printed);
  if (!web) throw new Error(`the server names no web port: ${server.printed}`);
  project.provide("address", server.address);
  project.provide("webAddress", web[1]!);
  return server.stop;
}
