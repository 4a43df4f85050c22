// Every page by day and by night: it opens without a complaint, passes axe, and is pictured.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { everything, key, launch, picture, signIn, url } from "./browser.mjs";
import { pages as all, pagesOfOne } from "./pages.mjs";

const AxeBuilder = axe.default ?? axe;
const pages = { ...all, lost: "/no-such-page" };

const shapes = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 800 } };

async function call(method, body, as = key, headers = {}) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${as}`, ...headers }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${JSON.stringify(said)}`);
  return said;
}

async function looked(name) {
  const { page } = b;
  await picture(page, name);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 1, `the page is ${wide} px too wide`);
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ") + " " + (n.any[0]?.message ?? "")).slice(0, 4).join("; ")}`), []);
  assert.deepEqual(b.complaints.splice(0), []);
}

let b;
before(async () => {
  b = await launch();
});
after(() => b?.close());

for (const theme of ["light", "dark"]) {
  for (const [shape, size] of Object.entries(shapes)) {
    test(`signing in, ${theme}, ${shape}`, async () => {
      const { page } = b;
      await page.emulateMedia({ colorScheme: theme });
      await page.setViewportSize(size);
      await page.goto(url);
      await page.getByLabel("API key or one-time code").waitFor();
      b.complaints.length = 0; // the first WhoAmI finds nobody signed in
      await looked(`signin-${theme}-${shape}`);
    });
  }
}

test("signed in", async () => {
  await b.page.setViewportSize(shapes.wide);
  await signIn(b.page);
  b.complaints.length = 0;
});

for (const theme of ["light", "dark"]) {
  for (const [name, path] of Object.entries(pages)) {
    test(`${name}, ${theme}`, async () => {
      const { page } = b;
      await page.emulateMedia({ colorScheme: theme });
      await page.goto(url + path);
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.getByText("live", { exact: true }).waitFor();
      await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
      await looked(`${name}-${theme}`);
    });
  }
}

/** Pages of one thing: what is opened for each, and how to know that all of it is there. Shells are pictured on a real machine, by shell.mjs. */
const ones = {
  host: [{ name: "host", open: async () => (await call("HostService/GetHost", { host: "web-1" })).id, there: (page) => page.getByText("agent_tokens.use").or(page.getByText("hosts.enrol")).first().waitFor() }],
  command: [
    { name: "command-finished", open: async () => (await start({ hosts: ["web-1", "web-2", "web-3", "worker-1"], command: { arguments: ["df", "-h", "/"] } })).id, there: (page) => page.getByRole("region", { name: /host, failed/ }).waitFor() },
    { name: "command-running", open: async () => (await start({ selector: "role=worker", command: { arguments: ["apt-get", "-y", "upgrade"], timeout: "3600s" } })).id, there: (page) => page.getByRole("region", { name: /succeeded/ }).waitFor() },
  ],
  "saved-command": [
    { name: "saved-command", open: async () => (await saved("pictured")).id, there: (page) => page.getByRole("row").filter({ hasText: "(this one)" }).waitFor() },
    {
      name: "saved-command-script",
      open: async () => {
        await saved("rotates-logs");
        const { id } = await call("CommandService/SaveCommand", { workspace: "default", name: "rotates-logs", description: "rotate logs now, on hosts whose disk is filling", command: { arguments: ["set -eu\nlogrotate --force /etc/logrotate.conf\ndf -h / | tail -n 1"], shell: true, user: "log", timeout: "300s" } });
        return id;
      },
      there: (page) => page.getByText("is what is run").waitFor(),
    },
  ],
  check: [{ name: "check", open: async () => "disk", there: (page) => page.getByRole("heading", { name: "Check disk" }).waitFor() }],
  review: [
    {
      name: "review",
      open: async () => (await call("AccessReviewService/CreateAccessReview", { name: `pictured-${Date.now()}`, dueAt: new Date(Date.now() + 86400_000).toISOString() })).id,
      there: (page) => page.getByRole("row").filter({ hasText: "owner" }).first().waitFor(),
    },
  ],
  shell: [],
};

/** A saved command that somebody else approved. */
async function saved(name) {
  const made = await call("CommandService/SaveCommand", {
    workspace: "default",
    name,
    description: "restart a service of the web tier",
    command: { arguments: ["systemctl", "restart", "--no-block", "{unit}"] },
    parameters: [{ name: "unit", pattern: "(nginx|haproxy)\\.service", description: "which service" }],
  });
  return call("CommandService/ApproveCommand", { command: made.id }, process.env.CONSOLE_RUNNER);
}

function start(of) {
  return call("ExecService/StartExec", of, process.env.CONSOLE_RUNNER, { "Loopback-Reason": "disk%20is%20filling" });
}

test("every page of one thing has a picture", () => assert.deepEqual(Object.keys(ones).sort(), Object.keys(pagesOfOne).sort()));

for (const [noun, list] of Object.entries(ones)) {
  for (const one of list) {
    test(one.name, async () => {
      const { page } = b;
      const id = await one.open();
      for (const theme of ["light", "dark"]) {
        for (const [shape, size] of Object.entries(shapes)) {
          await page.emulateMedia({ colorScheme: theme });
          await page.setViewportSize(size);
          await page.goto(url + pagesOfOne[noun] + id);
          await page.getByRole("heading", { level: 1 }).waitFor();
          await one.there(page);
          await looked(`${one.name}-${theme}-${shape}`);
        }
      }
      await page.setViewportSize(shapes.wide);
    });
  }
}

test("the lists with something in them, and the menu, on a phone", async () => {
  const { page } = b;
  for (const theme of everything ? ["light", "dark"] : ["dark"]) {
    await page.emulateMedia({ colorScheme: theme });
    await page.setViewportSize(shapes.phone);
    for (const [name, path] of Object.entries(pages)) {
      await page.goto(url + path);
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
      await looked(`${name}-${theme}-phone`);
    }
    await page.getByRole("button", { name: "Menu" }).click();
    await looked(`menu-${theme}-phone`);
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(shapes.wide);
});

test("what wants one is seen on a phone without opening the menu", async () => {
  const { page } = b;
  await call("RoleService/CreateRole", { name: "pictured", permissions: ["hosts.read"] });
  await call("GrantPolicyService/CreateGrantPolicy", { name: "pictured", role: "pictured", approvals: 1 });
  const account = await call("ServiceAccountService/CreateServiceAccount", { name: "pictured" });
  await call("BindingService/CreateBinding", { serviceAccount: account.id, role: "member" });
  const { secret } = await call("ApiKeyService/CreateApiKey", { name: "pictured", serviceAccount: account.id, permissions: ["*"] });
  await call("GrantService/RequestGrant", { role: "pictured", reason: "a test" }, secret);
  await page.setViewportSize(shapes.phone);
  await page.goto(url);
  await page.getByRole("button", { name: /wants? you/ }).click();
  await page.getByRole("dialog", { name: "What wants you" }).waitFor();
  await looked("attention-phone");
  await page.setViewportSize(shapes.wide);
});
