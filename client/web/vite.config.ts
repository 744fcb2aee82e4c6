/** Builds the page into the Python package that serves it. */

import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { withDigest } from "./sources.js";

export default defineConfig({
  base: "./",
  plugins: [withDigest(new URL("./", import.meta.url))],
  resolve: { alias: { groupconv: fileURLToPath(new URL("../typescript/src/browser.ts", import.meta.url)) } },
  build: {
    outDir: "../../server/groupconv_server/web/page",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0, // the page's Content-Security-Policy allows files of the server alone
  },
});
