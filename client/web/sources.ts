/** Digest of all that the page is built from. The built page carries it, so that a test sees whether it is current. */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import type { Plugin } from "vite";

const FOLDERS = ["public", "src", "../typescript/src"];
const FILES = ["index.html", "package.json", "tsconfig.json", "vite.config.ts"];

/** SHA-256 over the name and the bytes of each source, in the order of names. */
export function digest(root: URL): string {
  const names = FOLDERS.flatMap((folder) =>
    readdirSync(new URL(`${folder}/`, root), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(fileURLToPath(root), join(entry.parentPath, entry.name))),
  );
  const hash = createHash("sha256");
  for (const name of [...names, ...FILES].sort()) {
    hash.update(`${name}\0`);
    hash.update(readFileSync(new URL(name, root)));
  }
  return hash.digest("hex");
}

/** Writes the digest into the built page. */
export function withDigest(root: URL): Plugin {
  return {
    name: "digest",
    generateBundle() {
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: `${digest(root)}\n` });
    },
  };
}
