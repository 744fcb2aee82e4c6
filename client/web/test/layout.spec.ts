/** Accessibility by axe-core, and the layout at both widths, in light and dark. */

import { execFileSync } from "node:child_process";
import AxeBuilder from "@axe-core/playwright";
import { expect, type Page } from "@playwright/test";
import type { Server } from "./server";
import { test } from "./server";

const WIDTHS = [375, 1440];
/** What a screenshot may differ by: versions of Chromium draw letters and edges a little differently. */
const LIKE = { maxDiffPixelRatio: 0.06, threshold: 0.35 };
/** The font of the screenshots. Another one has other widths, and lines of other lengths. */
const FONT = "DejaVu Sans";

/** The font that this machine has for the page. */
function font(): string {
  try {
    return execFileSync("fc-match", ["--format=%{family}", "system-ui"], { encoding: "utf8" });
  } catch {
    return "an unknown one: there is no fc-match";
  }
}

async function open(page: Page, server: Server, width: number, scheme: "light" | "dark", fragment: string) {
  await page.setViewportSize({ width, height: 900 });
  await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
  await page.goto("about:blank");
  await page.goto(`${server.url}#${fragment}`);
  await expect(page.getByRole("region", { name: "The plan" })).toBeVisible();
}

/** What axe-core finds, with the elements. */
async function violations(page: Page): Promise<string[]> {
  const found = await new AxeBuilder({ page }).analyze();
  return found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(" ")}`);
}

for (const width of WIDTHS) {
  for (const scheme of ["light", "dark"] as const) {
    test(`axe finds nothing at ${width} px in ${scheme}`, async ({ page, server }) => {
      await open(page, server, width, scheme, "variant=depthwiseSeparable");
      expect(await violations(page)).toEqual([]);
      await open(page, server, width, scheme, "variant=grouped");
      await page.getByLabel("Color by worker").check();
      await page.getByLabel("Groups").fill("4");
      await expect(page.locator(".alert")).not.toBeEmpty();
      expect(await violations(page)).toEqual([]);
    });

    test(`looks as it did at ${width} px in ${scheme}`, async ({ page, server }) => {
      const found = font();
      test.skip(!found.includes(FONT), `the screenshots have ${FONT}, this machine's font is ${found}`);
      await open(page, server, width, scheme, "variant=grouped&image=rings");
      await expect(page).toHaveScreenshot(`${width}-${scheme}.png`, {
        ...LIKE,
        mask: [page.locator(".plan p"), page.locator("td.number"), page.locator("td:last-child")],
      });
    });
  }
}

test("nothing is wider than the page, whatever the variant", async ({ page, server }) => {
  for (const variant of [
    "standard",
    "grouped",
    "pointwise",
    "depthwiseSeparable",
    "spatiallySeparable",
    "transposed",
  ]) {
    for (const width of WIDTHS) {
      await open(page, server, width, "light", `variant=${variant}`);
      expect(await page.evaluate(() => document.documentElement.scrollWidth), `${variant} at ${width}`).toBe(width);
    }
  }
});
