// The same act elsewhere: what a form shows for the command line and for curl is run, as it stands, and does what the form would.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { after, before, test } from "node:test";
import { key, launch, picture, signIn, url } from "./browser.mjs";

const run = promisify(execFile);
const cli = process.env.CONSOLE_CLI;

let b, page, home;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "console-forms-"));
  b = await launch();
  page = b.page;
  await signIn(page);
});
after(async () => {
  await b?.close();
  await rm(home, { recursive: true, force: true });
});

const dialog = () => page.getByRole("dialog");

async function call(method, body) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` }, body: JSON.stringify(body) });
  return answer.json();
}

/** Runs a line as somebody would who copied it. */
async function shell(line) {
  const env = { ...process.env, HOME: home, PATH: `${dirname(cli)}:${process.env.PATH}`, LOOPBACK_URL: url, LOOPBACK_API_KEY: key, LOOPBACK_CA_FILE: process.env.NODE_EXTRA_CA_CERTS, CURL_CA_BUNDLE: process.env.NODE_EXTRA_CA_CERTS };
  const { stdout } = await run("sh", ["-ec", line], { env });
  return stdout;
}

/** What the form that is open shows for a way. */
async function shown(at, way) {
  if (!(await at.getByRole("radio", { name: way }).isVisible())) await at.getByText("The same on the command line and by the API").click();
  await at.getByRole("radio", { name: way }).check();
  return at.getByRole("group", { name: "show it as" }).getByLabel(way === "JSON" ? "request" : "command", { exact: true }).innerText();
}

test("a token: minted by the command and by curl", async () => {
  await page.goto(`${url}/enrol`);
  await page.getByLabel("For how many hosts").fill("3");
  await page.getByLabel("Labels that its hosts get").fill("env=prod team=ops");
  await page.getByLabel("What it is for").fill(`it's "quoted" & $HOME`);
  const main = page.getByRole("main");
  const before = (await call("TokenService/ListTokens", { page: { size: 1000 } })).items.length;
  await shell(await shown(main, "Command line"));
  await shell(await shown(main, "curl"));
  assert.match(await shown(main, "JSON"), /^POST \/api\/loopback\.v1\.TokenService\/MintToken\n\{/);
  await picture(page, "same-json");
  const made = (await call("TokenService/ListTokens", { page: { size: 1000 } })).items;
  assert.equal(made.length, before + 2);
  for (const t of made.slice(0, 2)) assert.deepEqual([t.maxUses, t.description, t.hostLabels], [3, `it's "quoted" & $HOME`, { env: "prod", team: "ops" }]);
});

test("hosts: quarantined by the command and let go by curl, several at once", async () => {
  const states = async () => (await call("HostService/ListHosts", { query: "name=worker-2 or name=worker-3" })).items.map((h) => h.state);
  const choose = async (act) => {
    await page.goto(`${url}/hosts?q=${encodeURIComponent("name=worker-2 or name=worker-3")}`);
    await page.getByLabel("select all that are shown").check();
    await page.getByRole("toolbar").getByRole("button", { name: act }).click();
    await dialog().getByLabel("Reason").fill("it's a test");
  };
  await choose("Quarantine");
  await shell(await shown(dialog(), "Command line"));
  assert.deepEqual(await states(), ["quarantined", "quarantined"]);
  await choose("Release");
  await shell(await shown(dialog(), "curl"));
  assert.ok((await states()).every((s) => s !== "quarantined"));
});

test("labels, settings, a key and a revocation", async () => {
  const { id } = await call("HostService/GetHost", { host: "worker-4" });
  await page.goto(`${url}/hosts/${id}`);
  await page.getByRole("button", { name: "Labels" }).click();
  const field = dialog().getByRole("textbox", { name: "Labels" });
  await field.fill(`${await field.inputValue()} by=hand`);
  await shell(await shown(dialog(), "Command line"));
  assert.equal((await call("HostService/GetHost", { host: id })).labels.by, "hand");

  await page.goto(`${url}/settings`);
  await page.getByLabel("Longest heartbeat").fill("17s");
  const main = page.getByRole("main");
  await shell(await shown(main, "Command line"));
  const { id: workspace } = (await call("WorkspaceService/ListWorkspaces", {})).items[0];
  assert.equal((await call("SettingsService/GetSettings", { workspace })).own.heartbeatMax, "17s");

  await page.goto(`${url}/keys`);
  await page.getByRole("button", { name: "New key" }).click();
  await dialog().getByLabel("Name").fill("by-hand");
  await dialog().getByLabel("Permissions").fill("hosts.read");
  const made = JSON.parse(await shell(await shown(dialog(), "curl")));
  assert.deepEqual(made.apiKey.permissions, ["hosts.read"]);
  await page.keyboard.press("Escape");
  await page.getByRole("row").filter({ hasText: "by-hand" }).getByRole("button", { name: "Revoke" }).click();
  await shell(await shown(dialog(), "Command line"));
  assert.ok((await call("ApiKeyService/GetApiKey", { apiKey: made.apiKey.id })).revokedAt);
});

test("how long recordings are kept: by the command, by curl, by the form, and as the place above says", async () => {
  const set = async () => (await call("ShellService/ListRecordingRetentions", {})).items.map((r) => `${r.scope.workspaceId ? "workspace" : "everywhere"} ${r.keepDays} ${r.reason}`).sort();
  const { id: workspace } = (await call("WorkspaceService/ListWorkspaces", {})).items[0];
  const open = async (place, days) => {
    await page.goto(`${url}/shells/retention`);
    await page.getByRole("button", { name: "How long…" }).click();
    await dialog().getByLabel("Recordings in").selectOption(place);
    await dialog().getByRole("textbox", { name: "Days" }).fill(days);
    await dialog().getByLabel("Why").fill("it's a test");
  };
  await open("", "400");
  await shell(await shown(dialog(), "Command line"));
  assert.deepEqual(await set(), ["everywhere 400 it's a test"]);
  await open(`workspace:${workspace}`, "90");
  await shell(await shown(dialog(), "curl"));
  assert.deepEqual(await set(), ["everywhere 400 it's a test", "workspace 90 it's a test"]);
  await open(`workspace:${workspace}`, "0");
  await dialog().getByText("a number of days, 1 to").waitFor();
  await dialog().getByRole("textbox", { name: "Days" }).fill("30");
  await dialog().getByRole("checkbox").check();
  await picture(page, "shell-retention-form");
  await dialog().getByRole("button", { name: "Delete what is older" }).click();
  await page.getByRole("cell", { name: "30 days" }).waitFor();
  await open(`workspace:${workspace}`, "30");
  await dialog().getByText("as the place above it says").click();
  await shell(await shown(dialog(), "Command line"));
  assert.deepEqual(await set(), ["everywhere 400 it's a test"]);
  await call("ShellService/SetRecordingRetention", { inherit: true });
});
