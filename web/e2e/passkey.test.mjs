// Passkeys in a real browser, with Chromium's own virtual authenticator: somebody who was invited makes one, shows it where an act
// takes one (in the console, and for a command line), signs in with it, and removes it.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import axe from "@axe-core/playwright";
import { key, launch, launchWithPasskeys, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
const run = promisify(execFile);
const program = process.env.CONSOLE_CLI;
let b, home, env, first;

async function call(method, body) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${said.message}`);
  return said;
}

async function fine(page) {
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`), []);
}

before(async () => {
  home = await mkdtemp(join(tmpdir(), "console-cli-"));
  env = { HOME: home, PATH: process.env.PATH, NO_COLOR: "1", LOOPBACK_CA_FILE: process.env.NODE_EXTRA_CA_CERTS };
  b = await launchWithPasskeys();
  first = await b.add();
  await call("UserService/CreateUser", { name: "ada" });
  await call("BindingService/CreateBinding", { user: "ada", role: "operator" });
});
after(async () => {
  await b?.close();
  await rm(home, { recursive: true, force: true });
});

test("who is invited makes a passkey and is in; the link works once", async () => {
  const { page } = b;
  const invited = await call("InvitationService/CreateInvitation", { user: "ada" });
  await page.goto(invited.url);
  await page.getByRole("heading", { name: "Welcome, ada" }).waitFor();
  assert.ok(!page.url().includes("lbi_"), `the link stays in the address: ${page.url()}`);
  await picture(page, "invite");
  await fine(page);
  await page.getByLabel("Name of the passkey").fill("work laptop");
  await page.getByRole("button", { name: "Make passkey" }).click();
  await page.getByRole("navigation", { name: "main" }).waitFor();

  const again = await b.context.newPage();
  await again.goto(invited.url);
  await again.getByRole("alert").filter({ hasText: "used already" }).waitFor();
  await again.close();
});

test("an act that takes a passkey asks for it in place; who leaves it keeps what they typed", async () => {
  const { page } = b;
  await page.goto(`${url}/account`);
  await page.getByRole("button", { name: "Add a passkey" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("typed before");
  await page.getByRole("dialog").getByRole("button", { name: "Make passkey" }).click();
  const dialog = page.getByRole("dialog", { name: "Show that it is you" });
  await dialog.waitFor();
  await picture(page, "step-up");
  await fine(page);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("alert").filter({ hasText: "step_up_required" }).waitFor();
  assert.equal(await page.getByRole("dialog").getByLabel("Name").inputValue(), "typed before");
  await page.getByRole("dialog").getByRole("button", { name: "Make passkey" }).click();
  await dialog.getByRole("button", { name: "Show passkey" }).click();
  await page.getByRole("alert").filter({ hasText: "passkey_exists" }).waitFor(); // it went on, to what this device answers
});

test("the command line has the passkey shown in the browser, and goes on", async () => {
  const { page } = b;
  /** Runs the command line until it says where to look. */
  const begin = (...words) => {
    const child = spawn(program, words, { env, stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    const address = new Promise((found, failed) => {
      child.stderr.on("data", (d) => {
        said += d;
        const at = /open (\S+) and check that it shows the code (\S+)/.exec(said);
        if (at) found(at[1]);
      });
      child.on("exit", (code) => failed(new Error(`it ended with ${code}: ${said}`)));
    });
    return { address, ended: new Promise((done) => child.on("exit", (code) => done({ code, said }))) };
  };
  const login = begin("login", url, "--browser");
  await page.goto(await login.address);
  await page.getByRole("button", { name: "Approve" }).click();
  assert.equal((await login.ended).code, 0);
  const { items } = JSON.parse((await run(program, ["passkey", "list", "-o", "json"], { env })).stdout);
  assert.equal(items.length, 1);

  const removing = begin("passkey", "remove", items[0].id);
  await page.goto(await removing.address);
  await page.getByText("It asks for your passkey").waitFor();
  await picture(page, "device-step-up");
  await page.getByRole("button", { name: "Show passkey" }).click();
  await page.getByRole("status").filter({ hasText: "Shown" }).waitFor();
  const { code, said } = await removing.ended;
  assert.equal(code, 6, said); // it went on, and came to where the last way in is not removed without a word
  assert.match(said, /last way in/);
});

test("a second one is made on another device; the same device is told that it has one", async () => {
  const { page } = b;
  await page.goto(`${url}/account`);
  await page.getByRole("row").filter({ hasText: "work laptop" }).waitFor();
  const add = async () => {
    await page.getByRole("button", { name: "Add a passkey" }).click();
    await page.getByRole("dialog").getByLabel("Name").fill("phone");
    await page.getByRole("dialog").getByRole("button", { name: "Make passkey" }).click();
  };
  await add();
  await page.getByRole("alert").filter({ hasText: "passkey_exists" }).waitFor();
  assert.equal(await page.getByRole("dialog").getByLabel("Name").inputValue(), "phone");
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await b.drop(first);
  await b.add();
  await add();
  await page.getByRole("row").filter({ hasText: "phone" }).waitFor();
  await picture(page, "account-passkeys");
  await fine(page);
});

test("signing in with it; one by one they are removed, the last not without a word", async () => {
  const { page } = b;
  await b.context.clearCookies();
  await page.goto(url);
  await page.getByRole("button", { name: "Continue with a passkey" }).click();
  await page.getByRole("navigation", { name: "main" }).waitFor();
  await page.goto(`${url}/account`);
  for (const name of ["work laptop", "phone"]) {
    const row = page.getByRole("row").filter({ hasText: name });
    await row.getByRole("button", { name: "Remove" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
    if (name === "phone") {
      await page.getByRole("alert").filter({ hasText: "last way in" }).waitFor();
      await page.getByRole("button", { name: "Remove my last way in" }).click();
    }
    await row.waitFor({ state: "detached" });
  }
  await b.context.clearCookies();
  await page.goto(url);
  await page.getByRole("button", { name: "Continue with a passkey" }).click();
  await page.getByRole("alert").filter({ hasText: "passkey_unknown" }).waitFor();
});

test("an administrator invites where people are made", async () => {
  const other = await launch();
  try {
    const { page } = other;
    await signIn(page);
    await page.goto(`${url}/access/people`);
    await page.getByRole("button", { name: "ada", exact: true }).click();
    await page.getByRole("button", { name: "Invite…" }).click();
    await page.getByRole("button", { name: "Make link" }).click();
    const text = await page.getByLabel("link").textContent();
    assert.match(text, /^https:\/\/localhost:\d+\/invite#lbi_/);
    await picture(page, "people-invited");
    await page.getByRole("button", { name: "Done" }).click();
    assert.ok(!(await page.content()).includes("lbi_"), "the link is still in the page");
  } finally {
    await other.close();
  }
});

test("the sign-in page: another name says so plainly; many providers with long names", async () => {
  const other = await launch({ others: [url.replace("localhost", "127.0.0.1")] });
  try {
    const { page } = other;
    await page.goto(url.replace("localhost", "127.0.0.1"));
    await page.getByText("Passkeys are good for localhost").waitFor();
    await picture(page, "signin-other-name");
    const made = [];
    for (const name of ["corp", "an-identity-provider-with-a-name-as-long-as-a-name-may-be", "github", "contractors-of-the-northern-region", "partners"]) {
      made.push((await call("ProviderService/CreateProvider", { name, fields: { issuer: `${url}/${name}`, clientId: "x", secret: "y" } })).id);
      if (made.length !== 1 && made.length !== 5) continue;
      for (const [look, options] of Object.entries({ light: { colorScheme: "light" }, dark: { colorScheme: "dark" } })) {
        await page.emulateMedia(options);
        for (const [size, viewport] of Object.entries({ wide: { width: 1440, height: 900 }, narrow: { width: 360, height: 740 } })) {
          await page.setViewportSize(viewport);
          await page.goto(url);
          await page.getByRole("button", { name: "Continue with corp" }).waitFor();
          await picture(page, `signin-${made.length}-${look}-${size}`);
          assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), `${look} ${size}: it is wider than the window`);
          await fine(page);
        }
      }
    }
    for (const identityProvider of made) await call("ProviderService/DeleteProvider", { identityProvider });
  } finally {
    await other.close();
  }
});
