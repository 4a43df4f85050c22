// The first start of a control plane: whoever has the printed code becomes the first administrator by making a passkey, and the code is
// good once. A control plane of its own, since the others have their administrators.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { launchWithPasskeys, picture } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
let dir, daemon, at, code, b;

/** A port of localhost that nobody listens on. */
async function free() {
  const server = createServer();
  await new Promise((go) => server.listen(0, "localhost", go));
  const { port } = server.address();
  await new Promise((go) => server.close(go));
  return port;
}

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "console-first-"));
  const port = await free();
  at = `https://localhost:${port}`;
  daemon = spawn(process.env.CONSOLE_DAEMON, ["serve", "--data-dir", join(dir, "data"), "--listen", `localhost:${port}`, "--metrics-listen", "off", "--public-url", at], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  code = await new Promise((found, failed) => {
    const hear = (d) => {
      said += d;
      const m = /^bootstrap code: (\S+)$/m.exec(said);
      if (m) found(m[1]);
    };
    daemon.stdout.on("data", hear);
    daemon.stderr.on("data", hear);
    daemon.on("exit", (how) => failed(new Error(`it ended with ${how}: ${said}`)));
  });
  for (let tries = 0; ; tries++) {
    const up = await fetch(`${at}/readyz`).then(
      (answer) => answer.ok,
      (error) => /CERT|SELF_SIGNED|certificate/i.test(`${error.cause?.code} ${error.cause?.message}`), // it is up; the browser trusts it by its key
    );
    if (up) break;
    assert.ok(tries < 300, "it does not come up");
    await new Promise((go) => setTimeout(go, 100));
  }
  b = await launchWithPasskeys(at);
  await b.add();
});
after(
  async () => {
    if (daemon && daemon.exitCode === null) {
      const ended = new Promise((go) => daemon.on("exit", go));
      daemon.kill("SIGKILL"); // its data goes with it
      await ended;
    }
    await b?.close();
    await rm(dir, { recursive: true, force: true });
  },
  { timeout: 60_000 },
);
afterEach(async (t) => {
  if (t.error && b) await picture(b.page, `failed-bootstrap-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

async function enter(page, text) {
  await page.goto(at);
  await page.getByLabel("API key or one-time code").fill(text);
  await page.getByRole("button", { name: "Sign in" }).click();
}

test("a wrong code is refused, and the right one still works", async () => {
  const { page } = b;
  await enter(page, "not-the-code");
  await page.getByRole("button", { name: "With a passkey", exact: true }).click();
  await page.getByRole("alert").waitFor();
});

test("the code becomes a passkey, and whoever made it owns the deployment", async () => {
  const { page } = b;
  await enter(page, code);
  await page.getByText("first administrator").waitFor();
  await picture(page, "bootstrap");
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => v.id), []);
  await page.getByRole("button", { name: "With a passkey", exact: true }).click();
  await page.getByLabel("Name of the passkey").fill("first laptop");
  await picture(page, "bootstrap-passkey");
  await page.getByRole("button", { name: "Make passkey" }).click();
  const nav = page.getByRole("navigation", { name: "main" });
  await nav.getByRole("link", { name: "Access" }).waitFor();
  await page.goto(`${at}/access/bindings`);
  await page.getByRole("row").filter({ hasText: "owner" }).waitFor();
  await page.goto(`${at}/account`);
  await page.getByRole("row").filter({ hasText: "first laptop" }).waitFor();
});

test("the code is good once; the passkey is the way in from then on", async () => {
  const { page } = b;
  await b.context.clearCookies();
  await enter(page, code);
  await page.getByRole("button", { name: "With an API key", exact: true }).click();
  await page.getByRole("alert").waitFor();
  await page.goto(at);
  await page.getByRole("button", { name: "Continue with a passkey" }).click();
  await page.getByRole("navigation", { name: "main" }).getByRole("link", { name: "Access" }).waitFor();
});
