// Commands that one saves and another approves, checks, a run that is done again where it failed, and what a host tells of itself.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { after, afterEach, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { key, launch, launchWithPasskeys, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
const runner = process.env.CONSOLE_RUNNER;
const run = promisify(execFile);
const name = `restart-${Date.now().toString(36)}`;

let b, other, home;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "console-commands-"));
  b = await launch();
  await signIn(b.page);
  // Somebody else, who holds what is of tier 0 for an hour, and has a passkey: such acts take one.
  other = await launchWithPasskeys();
  await other.add();
  const person = `approver-${Date.now().toString(36)}`;
  await call("UserService/CreateUser", { name: person });
  await call("BindingService/CreateBinding", { user: person, role: "runs-commands", notAfter: new Date(Date.now() + 3600_000).toISOString() });
  const invited = await call("InvitationService/CreateInvitation", { user: person });
  await other.page.goto(invited.url);
  await other.page.getByLabel("Name of the passkey").fill("laptop");
  await other.page.getByRole("button", { name: "Make passkey" }).click();
  await other.page.getByRole("navigation", { name: "main" }).waitFor();
});

/** Presses a form's button, and shows the passkey where it is asked for: it was shown a moment ago, on a slow machine a longer one. */
async function pressed(page, label, then) {
  await page.getByRole("dialog").getByRole("button", { name: label }).click();
  const show = page.getByRole("button", { name: "Show passkey" });
  await then.or(show).first().waitFor();
  if (await show.isVisible()) await show.click();
  await then.waitFor();
}
after(async () => {
  await b?.close();
  await other?.close();
  await rm(home, { recursive: true, force: true });
});
afterEach(async (t) => {
  if (t.error) await picture(b.page, `failed-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

async function call(method, body, as = key, headers = {}) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${as}`, ...headers }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${JSON.stringify(said)}`);
  return said;
}

const dialog = (page = b.page) => page.getByRole("dialog");

async function clean(page, what) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 1, `${what}: the page is ${wide} px too wide`);
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).slice(0, 4).join("; ")}`), [], what);
}

/** By day and night, wide and narrow. */
async function looked(page, what) {
  for (const [theme, size] of [["light", { width: 1440, height: 900 }], ["dark", { width: 390, height: 800 }]]) {
    await page.emulateMedia({ colorScheme: theme });
    await page.setViewportSize(size);
    await picture(page, `${what}-${theme}`);
    await clean(page, `${what}, ${theme}`);
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1440, height: 900 });
}

/** Runs a line as somebody would who copied it. */
async function shell(line, as = key) {
  const env = { ...process.env, HOME: home, PATH: `${dirname(process.env.CONSOLE_CLI)}:${process.env.PATH}`, LOOPBACK_URL: url, LOOPBACK_API_KEY: as, LOOPBACK_CA_FILE: process.env.NODE_EXTRA_CA_CERTS, CURL_CA_BUNDLE: process.env.NODE_EXTRA_CA_CERTS };
  return (await run("sh", ["-ec", line], { env })).stdout;
}

/** What the form that is open shows for a way. */
async function shown(at, way) {
  if (!(await at.getByRole("radio", { name: way }).isVisible())) await at.getByText("The same on the command line and by the API").click();
  await at.getByRole("radio", { name: way }).check();
  return at.getByRole("group", { name: "show it as" }).getByLabel("command", { exact: true }).innerText();
}

const versions = async () => (await call("CommandService/ListCommands", { workspace: "default", name })).items ?? [];

test("a command is saved with the keyboard alone", async () => {
  const { page } = b;
  await page.keyboard.press("Control+k");
  await page.keyboard.type("saved commands");
  await page.getByRole("option", { name: /saved commands/ }).waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Saved commands", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Save a command" }).focus();
  await page.keyboard.press("Enter");
  await dialog().waitFor();
  await page.keyboard.type(name);
  await page.keyboard.press("Tab");
  await page.keyboard.type("restart a service");
  await page.keyboard.press("Tab");
  await page.keyboard.type("systemctl restart '{unit}'");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter"); // Add a parameter
  await dialog().getByLabel("name of parameter 1").focus();
  await page.keyboard.type("unit");
  await page.keyboard.press("Tab");
  await page.keyboard.type("(nginx|haproxy)\\.service");
  await page.keyboard.press("Tab");
  await page.keyboard.type("which service, it's said");
  await looked(page, "command-save");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name, level: 1 }).waitFor();
  const [made] = await versions();
  assert.deepEqual([made.version, made.state, made.command.arguments, made.parameters], [1, "pending", ["systemctl", "restart", "{unit}"], [{ name: "unit", pattern: "(nginx|haproxy)\\.service", description: "which service, it's said" }]]);
});

test("nobody approves their own, and who may not is told why; somebody else does", async () => {
  const { page } = b;
  const approve = page.getByRole("button", { name: "Approve" });
  assert.equal(await approve.getAttribute("aria-disabled"), "true");
  assert.match(await approve.getAttribute("title"), /commands\.approve/);
  assert.match(await page.getByRole("button", { name: "Run it" }).getAttribute("title"), /nobody has approved/);
  await other.page.goto(page.url());
  await other.page.getByRole("button", { name: "Approve" }).click();
  await dialog(other.page).getByLabel("what is approved").getByText("systemctl restart '{unit}'").waitFor();
  await looked(other.page, "command-approve");
  assert.match(await other.page.getByRole("button", { name: "Change" }).getAttribute("title"), /commands\.save/);
  await pressed(other.page, "Approve", other.page.getByRole("row").filter({ hasText: "(this one)" }).getByText("approved"));
  await page.getByRole("row").filter({ hasText: "(this one)" }).getByText("approved").waitFor(); // as it happens
  await page.getByRole("row").filter({ hasText: "(this one)" }).getByText("approver-").waitFor();
});

test("it is run on those whom the form shows, and what comes of it is seen", async () => {
  const { page } = b;
  await page.getByRole("button", { name: "Run it" }).click();
  await dialog().getByLabel("unit").fill("sshd");
  await dialog().getByText("Its whole has to match").waitFor();
  await dialog().getByLabel("unit").fill("nginx.service");
  await dialog().getByLabel("what is run").getByText("systemctl restart nginx.service").waitFor();
  await dialog().getByLabel("On", { exact: true }).fill("role=web");
  const all = (await call("HostService/ListHosts", { selector: "role=web" })).items.filter((h) => !["pending", "quarantined", "unmanaged"].includes(h.state));
  await dialog().getByRole("list", { name: "hosts" }).getByText(all[0].name, { exact: true }).waitFor();
  await dialog().getByRole("button", { name: `Run it on ${all.length} hosts` }).waitFor();
  assert.equal(await dialog().getByRole("list", { name: "hosts" }).getByRole("listitem").count(), all.length);
  await looked(page, "command-run");
  const cli = await shown(dialog(), "Command line");
  await dialog().getByLabel("how hosts are chosen").selectOption("hosts");
  await dialog().getByLabel("On", { exact: true }).fill("web-1 db-1");
  await shell(await shown(dialog(), "curl"));
  await dialog().getByRole("button", { name: "Run it on 2 hosts" }).click();
  await page.getByRole("heading", { name: "systemctl restart nginx.service" }).waitFor();
  await page.getByRole("link", { name: `${name} (version 1)` }).waitFor();
  await page.getByRole("region", { name: "2 hosts, succeeded" }).waitFor();
  const mine = (await call("ExecService/ListExecs", {})).items.filter((e) => e.as === `${name} (version 1)`);
  assert.equal(mine.length, 2, "one by the form, one by curl");
  assert.match(cli, /--set unit=nginx\.service/);
  await shell(cli.replace("role=web", "web-1"));
  assert.equal((await call("ExecService/ListExecs", {})).items.filter((e) => e.as === `${name} (version 1)`).length, 3, "and one by the command line");
  await page.goto(`${url}/commands`);
  await page.getByRole("link", { name: new RegExp(`${name} \\(version 1\\)`) }).first().waitFor();
});

test("a change is another version, saved by the command line as by the form, and waits", async () => {
  const { page } = b;
  const [first] = await versions();
  await page.goto(`${url}/commands/saved/${first.id}`);
  await page.getByRole("button", { name: "Change" }).click();
  await dialog().getByLabel("Command", { exact: true }).fill("systemctl restart --no-block '{unit}'");
  await shell(await shown(dialog(), "Command line"));
  await dialog().getByRole("button", { name: "Save the next version" }).click();
  await page.getByText("version 3").waitFor();
  const [third, second] = await versions();
  for (const v of [third, second]) assert.deepEqual([v.state, v.command, v.parameters, v.description], ["pending", third.command, first.parameters, first.description]);
  await page.getByText("is what is run").waitFor();
  await looked(page, "saved-version");
  await page.goto(`${url}/commands/saved?q=${name}`);
  const row = page.getByRole("row").filter({ has: page.getByRole("link", { name }) });
  await row.getByText("approved", { exact: true }).waitFor();
  assert.equal(await row.count(), 1, "the one that is run");
  await page.getByLabel("which versions").selectOption("pending");
  await row.nth(1).waitFor();
  assert.equal(await row.count(), 2, "those that wait");
  await looked(page, "saved-pending");
  await call("CommandService/ApproveCommand", { command: third.id }, runner);
  await page.getByText("Nothing waits for approval").or(page.getByText("No saved command is called that")).waitFor(); // as it happens: the second is replaced, too
});

test("a saved command is some keystrokes away, and removed with all its versions", async () => {
  const { page } = b;
  await page.keyboard.press("Control+k");
  await page.keyboard.type(name);
  await page.getByRole("option", { name: new RegExp(name) }).waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name, level: 1 }).waitFor();
  await page.getByRole("button", { name: "Remove" }).click();
  await dialog().getByText("Nobody").or(dialog().getByText("nobody can run it")).waitFor();
  await dialog().getByRole("button", { name: "Remove" }).click();
  await page.getByRole("heading", { name: "Saved commands", level: 1 }).waitFor();
  assert.deepEqual(await versions(), []);
});

test("a check is run, without a reason, and again where it failed", async () => {
  const { page } = b;
  await page.goto(`${url}/commands/checks`);
  await page.getByRole("button", { name: "run disk" }).waitFor();
  await looked(page, "checks");
  await page.getByRole("button", { name: "run disk" }).click();
  await dialog().getByLabel("how hosts are chosen").selectOption("hosts");
  await dialog().getByLabel("On", { exact: true }).fill("web-1 worker-1"); // worker-1's disk is broken
  await dialog().getByRole("button", { name: "Run it on 2 hosts" }).click();
  await page.getByRole("region", { name: "1 host, failed" }).waitFor();
  await page.getByRole("button", { name: "Run again where it failed" }).click();
  await dialog().getByRole("list", { name: "hosts" }).getByText("worker-1").waitFor();
  assert.equal(await dialog().getByRole("list", { name: "hosts" }).getByRole("listitem").count(), 1);
  assert.equal(await dialog().getByLabel("Reason").count(), 0, "a check needs none");
  const before = page.url();
  await dialog().getByRole("button", { name: "Run it" }).click();
  await page.waitForURL((u) => u.href !== before);
  await page.getByText("on 1 host").waitFor();
  await page.getByRole("link", { name: "check disk" }).waitFor();
});

test("somebody's own command is run again where it failed, with a reason, by whoever may", async () => {
  const made = await call("ExecService/StartExec", { hosts: ["web-2", "worker-1"], command: { arguments: ["df", "-h"], user: "nobody" } }, runner, { "Loopback-Reason": "disk" });
  await b.page.goto(`${url}/commands/${made.id}`);
  const button = (page) => page.getByRole("button", { name: "Run again where it failed" });
  await button(b.page).waitFor();
  assert.match(await button(b.page).getAttribute("title"), /exec\.run/, "an administrator does not hold it");
  const { page } = other;
  await page.goto(`${url}/commands/${made.id}`);
  await button(page).click();
  await dialog(page).getByLabel("Reason").fill("it has room again");
  await looked(page, "command-again");
  const cli = await shown(dialog(page), "Command line");
  await pressed(page, "Run it", page.getByText("on 1 host"));
  const again = async (id) => {
    const r = await call("ExecService/GetExec", { exec: id }, runner);
    return [r.command.arguments, r.command.user, Object.values(r.hosts).reduce((n, v) => n + v, 0)];
  };
  assert.deepEqual(await again(page.url().split("/").at(-1)), [["df", "-h"], "nobody", 1]);
  await assert.rejects(shell(cli, runner), /worker|failed/); // it fails there once more, as its code says
  const [latest] = (await call("ExecService/ListExecs", {}, runner)).items;
  assert.deepEqual(await again(latest.id), [["df", "-h"], "nobody", 1]);
});

test("a host tells of itself: the bundle is saved, and an error says why", async () => {
  const { page } = b;
  const host = async (of) => (await call("HostService/GetHost", { host: of })).id;
  await page.goto(`${url}/hosts/${await host("web-1")}`);
  await page.getByRole("button", { name: "Diagnose" }).click();
  await looked(page, "diagnose");
  await dialog().getByRole("button", { name: "Diagnose" }).click();
  await dialog().getByText("has the SHA-256").waitFor();
  await looked(page, "diagnosed");
  const [download] = await Promise.all([page.waitForEvent("download"), dialog().getByRole("link", { name: "Save web-1-diagnosis.tar.gz" }).click()]);
  assert.equal(download.suggestedFilename(), "web-1-diagnosis.tar.gz");
  assert.match(await readFile(await download.path(), "utf8"), /^(a bundle){102400}$/);
  await dialog().getByRole("button", { name: "Close" }).click();

  await page.goto(`${url}/hosts/${await host("worker-1")}`);
  await page.getByRole("button", { name: "Diagnose" }).click();
  await dialog().getByRole("button", { name: "Diagnose" }).click();
  await dialog().getByRole("alert").getByText("disk_full").waitFor();
  await dialog().getByText("make room there").waitFor();
  await looked(page, "diagnose-failed");
  await dialog().getByRole("button", { name: "Begin anew" }).click();
  await dialog().getByRole("button", { name: "Diagnose" }).waitFor();
  await page.keyboard.press("Escape");
  await other.page.goto(page.url());
  const refused = other.page.getByRole("button", { name: "Diagnose" });
  await refused.waitFor();
  assert.match(await refused.getAttribute("title"), /hosts\.diagnose/);
});

test("a module is restarted: with a reason, by the same command, and what went wrong is said", async () => {
  const { page } = b;
  const host = async (of) => (await call("HostService/GetHost", { host: of })).id;
  const id = await host("web-1");
  await page.goto(`${url}/hosts/${id}`);
  await page.getByRole("button", { name: "Restart settings" }).click();
  await dialog().getByLabel("Reason").fill("the log level did not change");
  await looked(page, "restart");
  const cli = await shown(dialog(), "Command line");
  assert.equal(cli, `loopback host restart-module ${id} settings --reason 'the log level did not change'`);
  await dialog().getByRole("button", { name: "Restart", exact: true }).click();
  await dialog().getByText("It was restarted.").waitFor();
  await dialog().getByText("applied 1.1; healthy").waitFor();
  await looked(page, "restarted");
  await dialog().getByRole("button", { name: "Close" }).click();
  await page.getByText("hosts.restart_module").first().waitFor();
  await page.setViewportSize({ width: 390, height: 800 });
  const at = await page.getByRole("button", { name: "Restart settings" }).boundingBox();
  assert.ok(at.x + at.width < 390, "the button is within reach on a phone");
  await page.setViewportSize({ width: 1440, height: 900 });
  await shell(cli);
  const entries = (await call("AuditService/ListEntries", { target: id, action: "hosts.restart_module" })).items;
  assert.equal(entries.length, 4, "two acts, each with how it went");
  assert.equal(entries[0].reason, "the log level did not change");

  await page.goto(`${url}/hosts/${await host("worker-1")}`);
  await page.getByRole("button", { name: "Restart settings" }).click();
  await dialog().getByRole("button", { name: "Restart", exact: true }).click();
  await dialog().getByText("is unhealthy: it has no peer").waitFor();
  await looked(page, "restart-failed");
  await page.keyboard.press("Escape");
  await other.page.goto(page.url());
  const refused = other.page.getByRole("button", { name: "Restart settings" });
  await refused.waitFor();
  assert.match(await refused.getAttribute("title"), /hosts\.restart_module/);
});
