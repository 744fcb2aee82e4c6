/** Runs the page in Debian's Chromium against real servers. */

import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: "test",
  outputDir: "../../build/out/page-tests",
  snapshotPathTemplate: "{testDir}/layouts/{arg}{ext}",
  timeout: 60_000,
  expect: { timeout: 15_000 },
  workers: 1,
  retries: process.env.CI ? 1 : 0,
  reporter: [["list"]],
  use: {
    browserName: "chromium",
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
    },
    viewport: { width: 1440, height: 900 },
  },
});
