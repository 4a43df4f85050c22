// A browser for tests: Debian's Chromium, with nothing that would call home.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const url = process.env.CONSOLE_URL;
export const key = process.env.CONSOLE_KEY;
export const reader = process.env.CONSOLE_READER;
export const hosts = Number(process.env.CONSOLE_HOSTS ?? 40);

export async function launch(options = {}) {
  const profile = await mkdtemp(join(tmpdir(), "console-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    ignoreHTTPSErrors: true,
    viewport: { width: 1440, height: 900 },
    locale: "en-GB",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
    permissions: ["clipboard-read", "clipboard-write"],
    ...options,
  });
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(15_000);
  // What the page says it cannot do, and what the policy forbids, is a failure of ours.
  const complaints = [];
  page.on("console", (m) => m.type() === "error" && complaints.push(m.text()));
  page.on("pageerror", (e) => complaints.push(String(e)));
  return {
    page,
    context,
    complaints,
    close: async () => {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

export async function signIn(page, as = key) {
  await page.goto(url);
  await page.getByLabel("API key or one-time code").fill(as);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("navigation", { name: "main" }).waitFor();
}

export function picture(page, name) {
  return page.screenshot({ path: join(process.env.CONSOLE_OUT, `${name}.png`) });
}
