/** Real servers for the tests: `groupconv serve` with two workers, from the project's own environment. */

import { test as base } from "@playwright/test";
import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";

export const GROUPCONV =
  process.env.GROUPCONV ?? fileURLToPath(new URL("../../../.venv/bin/groupconv", import.meta.url));
const OPTIONS = ["--port", "0", "--executor", "local", "--workers", "2", "--threads", "1"];

/** A server and the URL of its page. */
export class Server {
  private constructor(
    readonly url: string,
    private readonly process: ChildProcess,
  ) {}

  /** Starts one; resolves once it takes requests. */
  static async start(port = 0, ...options: string[]): Promise<Server> {
    const environment = { ...process.env, GROUPCONV_TUNE: "off" };
    const child = spawn(GROUPCONV, ["serve", ...OPTIONS, "--web-port", String(port), ...options], {
      env: environment,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let [text, url] = ["", ""];
    for await (const chunk of child.stdout) {
      text += String(chunk);
      url ||= /page on (\S+)/.exec(text)?.[1] ?? "";
      if (url && text.includes("is serving")) break;
    }
    if (!url) throw new Error(`the server did not start: ${text}`);
    child.stdout.on("error", () => undefined);
    return new Server(url, child);
  }

  get port(): number {
    return Number(new URL(this.url).port);
  }

  /** Ends it, at once. */
  async stop(): Promise<void> {
    const gone = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGKILL");
    await gone;
  }
}

/** Tests that share a server. */
export const test = base.extend<object, { server: Server }>({
  server: [
    async ({}, use) => {
      const server = await Server.start();
      await use(server);
      await server.stop();
    },
    { scope: "worker" },
  ],
});
