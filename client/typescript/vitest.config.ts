import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/server.ts"],
    testTimeout: 60_000, // the machine may be busy
    hookTimeout: 120_000,
    pool: "threads",
    maxWorkers: 1,
  },
});
