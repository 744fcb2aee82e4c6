/** The page as a reader uses it, in Chromium, against a real server. */

import { expect, type Page } from "@playwright/test";
import { VARIANTS, type Variant } from "../src/model/state";
import { test, type Server } from "./server";

const names = Object.keys(VARIANTS) as Variant[];

/** Opens the page and waits for the first result. */
async function open(page: Page, server: Server, fragment = ""): Promise<void> {
  await page.goto("about:blank");
  await page.goto(`${server.url}#${fragment}`);
  await expect(page.getByRole("region", { name: "The plan" })).toBeVisible();
}

const output = (page: Page) => page.getByRole("application");
const notice = (page: Page) => page.locator(".alert");

/** What the page says of the output: channels × height × width. */
const outputShape = (page: Page) =>
  page.locator("figure", { has: page.getByText("Output", { exact: true }) }).locator("figcaption span");

/** The value of the marked pixel, from the server's answer, and the page's own sum over its window. */
async function valueAndSum(page: Page): Promise<[number, number]> {
  const [value, sum] = await page.evaluate(() =>
    ["value", "sum"].map((id) => document.querySelector<HTMLElement>(`[data-testid=${id}]`)!.innerText),
  );
  return [value!, sum!.split("=").at(-1)!].map((text) => Number(text.trim().replace("−", "-"))) as [number, number];
}

const near = (a: number, b: number) => Math.abs(a - b) <= 0.002 + 0.01 * Math.abs(a);

const SHAPES: Record<Variant, string> = {
  standard: "1 × 64 × 64",
  pointwise: "3 × 64 × 64",
  grouped: "6 × 64 × 64",
  depthwise: "3 × 64 × 64",
  depthwiseSeparable: "3 × 64 × 64",
  spatiallySeparable: "3 × 64 × 64",
  dilated: "1 × 64 × 64",
  transposed: "3 × 64 × 64",
};

for (const variant of names) {
  test(`${variant}: what the window sums to is what the server answered, everywhere`, async ({ page, server }) => {
    await open(page, server);
    await page.getByLabel("Variant").selectOption(variant);
    await expect(page).toHaveURL(new RegExp(`variant=${variant}`));
    await expect(page.locator(`.maps[data-variant=${variant}]`)).toBeVisible();
    await expect(outputShape(page)).toHaveText(SHAPES[variant]);
    const map = output(page).locator(".map");
    const box = (await map.boundingBox())!;
    for (const [y, x] of [
      [0.5, 0.5],
      [0.002, 0.002],
      [0.998, 0.6],
    ] as const) {
      await map.hover({ position: { x: box.width * x, y: box.height * y } });
      const [value, sum] = await valueAndSum(page);
      expect(near(value, sum), `${variant} at ${y}, ${x}: ${value} and ${sum}`).toBe(true);
    }
    await expect(notice(page)).toBeEmpty();
  });
}

test("other parameters give what their window sums to", async ({ page, server }) => {
  for (const fragment of [
    "variant=standard&stride=2&padding=3&paddingMode=reflect&dilation=2&filters=5",
    "variant=grouped&groups=3&stride=3&paddingMode=circular&kernel=gaussian",
    "variant=transposed&stride=3&dilation=2&padding=2&outputPadding=1&groups=1&filters=2",
    "variant=depthwise&filters=6&paddingMode=replicate&padding=2",
    "variant=spatiallySeparable&stride=2&padding=1&dilation=2&image=rings",
  ]) {
    await open(page, server, fragment);
    for (const key of ["Shift+ArrowUp", "Shift+ArrowUp", "Shift+ArrowUp", "Shift+ArrowUp", "ArrowRight"]) {
      await output(page).press(key);
      const [value, sum] = await valueAndSum(page);
      expect(near(value, sum), `${fragment}: ${value} and ${sum}`).toBe(true);
    }
  }
});

test("a cell of the kernel is edited, and the link keeps it", async ({ page, server, context }) => {
  await open(page, server, "image=one bright pixel&size=16&channels=1");
  await page.getByLabel("Kernel, row 1, column 1").fill("7.5");
  await page.getByLabel("Kernel, row 1, column 1").press("Enter");
  await expect(page.getByLabel("Kernel", { exact: true })).toHaveValue("your own");
  await expect(page.getByText(/white 7.5/)).toBeVisible(); // one bright pixel shows the kernel, turned by 180°
  const other = await context.newPage();
  await other.goto(page.url());
  await expect(other.getByLabel("Kernel, row 1, column 1")).toHaveValue("7.5");
  await expect(other.getByText(/white 7.5/)).toBeVisible();
});

test("the plan shows both workers, and another cut on request", async ({ page, server }) => {
  await open(page, server, "variant=grouped");
  const plan = page.getByRole("region", { name: "The plan" });
  const rows = plan.locator("tbody tr");
  await expect(plan.getByRole("list", { name: "Workers" }).getByRole("listitem")).toHaveText(["local-0", "local-1"], {
    ignoreCase: false,
  });
  await expect(rows).toHaveCount(2);
  await page.getByLabel("Cut along").selectOption("nothing");
  await expect(rows).toHaveCount(1);
  await page.getByLabel("Cut along").selectOption("columns");
  await expect(plan.getByText("Cut along columns")).toBeVisible();
  await expect(rows).toHaveCount(2);
  await expect(rows.first()).toContainText(/\d (µs|ms)/);
});

test("a wrong parameter is named in words, and the page goes on", async ({ page, server }) => {
  await open(page, server, "variant=grouped");
  await page.getByLabel("Groups").fill("4");
  await expect(notice(page)).toContainText("groups: expected a divisor of the 6 input channels, got 4");
  await page.getByLabel("Groups").fill("3");
  await expect(notice(page)).toBeEmpty();
  await page.getByLabel("Stride").fill("0");
  await expect(notice(page)).toContainText("stride");
  await page.getByLabel("Stride").fill("2");
  await expect(outputShape(page)).toHaveText("6 × 32 × 32");
});

test("an image of one's own, what is none, and the camera", async ({ page, server }) => {
  await open(page, server, "channels=1");
  const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
  const file = page.getByLabel("Your own image");
  await file.setInputFiles({ name: "text.png", mimeType: "image/png", buffer: Buffer.from("no image") });
  await expect(notice(page)).toContainText("text.png is no image");
  await file.setInputFiles({ name: "red.png", mimeType: "image/png", buffer: Buffer.from(pixel, "base64") });
  await expect(page.getByLabel("Image", { exact: true })).toHaveValue("your own");
  await page.getByLabel("Image", { exact: true }).selectOption("camera");
  await expect(notice(page)).toBeEmpty();
  const picture = () =>
    page
      .locator("canvas")
      .first()
      .evaluate((canvas: HTMLCanvasElement) => canvas.toDataURL().length);
  await expect.poll(picture).toBeGreaterThan(500); // more than the one color of the file before
});

test("the keyboard alone reaches every control and moves the window", async ({ page, server }) => {
  await open(page, server);
  const seen = new Set<string>();
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press("Tab");
    seen.add(
      await page.evaluate(() => {
        const at = document.activeElement!;
        return at.getAttribute("aria-label") ?? (at as HTMLInputElement).labels?.[0]?.innerText ?? at.textContent!;
      }),
    );
    if ([...seen].some((name) => name.startsWith("Output pixel"))) break;
  }
  for (const name of ["Copy link", "Variant", "Kernel, row 2, column 2", "Image", "Stride", "Groups"]) {
    expect([...seen], name).toContain(name);
  }
  await expect(output(page)).toBeFocused();
  await expect(output(page)).toHaveAccessibleName(/row 32, column 32/);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Shift+ArrowRight");
  await expect(output(page)).toHaveAccessibleName(/row 31, column 40/);
  await expect(page.getByText(/Channel 0, row 31, column 40/)).toBeVisible();
});

test("the first view is at most 200 kB on the wire, from this server alone", async ({ page, server }) => {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  const [urls, sizes]: [string[], number[]] = [[], []];
  session.on("Network.requestWillBeSent", ({ request }) => urls.push(request.url));
  session.on("Network.loadingFinished", ({ encodedDataLength }) => sizes.push(encodedDataLength));
  await open(page, server);
  for (const url of urls.filter((each) => !/^(data|blob|about):/.test(each))) expect(url).toContain(server.url);
  expect(sizes.reduce((a, b) => a + b, 0)).toBeLessThan(200_000);
  expect(sizes.length).toBeGreaterThan(3);
});
