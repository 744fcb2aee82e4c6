/** The built package, imported by its name: the program of docs/typescript.md, and the entry for browsers. */

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, inject, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const program = `${root}/dist/program.mjs`; // within the package, so that its name is known

beforeAll(() => void execFileSync("npm", ["run", "--silent", "build", "--", "--noCheck"], { cwd: root }));
afterAll(() => rmSync(program));

function run(source: string, ...options: string[]): string {
  writeFileSync(program, source);
  return execFileSync(process.execPath, [...options, program]).toString();
}

test("the page's first program", () => {
  const page = readFileSync(`${root}/../../docs/typescript.md`, "utf8");
  const [, source] = /`first\.mjs`:\n\n```js\n(.*?)```/s.exec(page)!;
  const printed = run(source!.replace("localhost:50051", inject("address")));
  expect(printed).toContain("Tensor((1, 1, 3, 3) float32) [[[[-9,-6,9],[-20,-8,20],[-21,-6,21]]]]\n");
  expect(printed).toContain("(1, 96, 27, 27) * (256, 48, 5, 5) -> (1, 256, 27, 27)");
});

test("bundlers for browsers find the entry for browsers", () => {
  const source = `
    import { connect } from "groupconv";
    const client = connect("${inject("webAddress")}");
    console.log((await client.status()).workers.length, (await client.conv1d([[[1, 2]]], [[[3]]])).toNested());
    console.log(import.meta.resolve("groupconv").split("/").at(-1));`;
  expect(run(source, "--conditions=browser")).toBe("2 [ [ [ 3, 6 ] ] ]\nbrowser.js\n");
});
