/** A server that is lost and returns, and one that wants a token. */

import { expect, test } from "@playwright/test";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GROUPCONV, Server } from "./server";

test("a lost server is said, and the page goes on when it is back", async ({ page }) => {
  let server = await Server.start();
  try {
    await page.goto(server.url);
    await expect(page.getByRole("region", { name: "The plan" })).toBeVisible();
    const { port } = server;
    await server.stop();
    await page.getByLabel("Stride").fill("2");
    await expect(page.locator(".alert")).toContainText("The server does not answer");
    server = await Server.start(port);
    await expect(page.locator(".alert")).toBeEmpty();
    await expect(page.getByText("1 × 32 × 32")).toBeVisible();
  } finally {
    await server.stop();
  }
});

test("a token is asked for, refused if it is wrong, and in no link", async ({ page }) => {
  const folder = mkdtempSync(join(tmpdir(), "groupconv-page-"));
  const [file, output] = [join(folder, "tokens.toml"), join(folder, "alice.token")];
  execFileSync(GROUPCONV, ["token", "new", "alice", "--file", file, "--output", output]);
  const token = readFileSync(output, "utf8").trim();
  const server = await Server.start(0, "--tokens", file);
  try {
    await page.goto(server.url);
    const alert = page.locator(".alert");
    await expect(alert).toContainText("This server wants a token");
    await page.getByLabel("Token").fill("wrong");
    await page.keyboard.press("Enter");
    await expect(alert).toContainText("not known");
    await page.getByLabel("Token").fill(token);
    await page.getByRole("button", { name: "Use it" }).click();
    await expect(page.getByRole("region", { name: "The plan" })).toBeVisible();
    await expect(alert).toBeEmpty();
    expect(page.url()).not.toContain(token);
  } finally {
    await server.stop();
  }
});
