// A role for a while: offered, asked for, decided by somebody else who is told of it, and over.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { key, launch, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
let b, page, asker, other;

async function call(method, body, as = key) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${as}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${JSON.stringify(said)}`);
  return said;
}

before(async () => {
  await call("ServiceAccountService/CreateServiceAccount", { name: "deployer" });
  await call("BindingService/CreateBinding", { serviceAccount: "deployer", role: "member" });
  asker = (await call("ApiKeyService/CreateApiKey", { name: "deployer", serviceAccount: "deployer", permissions: ["*"] })).secret;
  b = await launch();
  page = b.page;
  await signIn(page);
  other = await launch();
  await signIn(other.page, asker);
});
after(async () => {
  await b?.close();
  await other?.close();
});
afterEach(async (t) => {
  if (t.error) {
    const name = t.name.replace(/[^a-z]+/g, "-").slice(0, 40);
    await picture(page, `failed-grants-${name}`);
    await picture(other.page, `failed-grants-${name}-other`);
  }
});

test("where nothing is offered, the form says what would help", async () => {
  await other.page.goto(`${url}/grants`);
  await other.page.getByRole("button", { name: "Ask for a role" }).click();
  await other.page.getByRole("dialog").getByText("Nothing can be asked for").waitFor();
  await picture(other.page, "grants-nothing-offered");
});

test("a policy offers a role", async () => {
  await page.goto(`${url}/grants/policies`);
  await page.getByRole("button", { name: "New policy" }).click();
  const d = page.getByRole("dialog");
  await d.getByLabel("Name", { exact: true }).fill("operate");
  await d.getByLabel("Role", { exact: true }).selectOption("operator");
  await d.getByLabel("Ticket matches").fill("OPS-[0-9]+");
  await d.getByLabel("For at most").fill("2h");
  await picture(page, "policy-form");
  await d.getByRole("button", { name: "Offer it" }).click();
  await page.getByRole("row").filter({ hasText: "operate" }).waitFor();
  await page.getByRole("button", { name: "operate" }).click();
  await d.getByText("whoever holds grants.approve there").waitFor();
});

test("asked for: too long and a wrong ticket are refused in place; the approver is told at once, without a reload", async () => {
  await page.goto(`${url}/hosts`);
  await page.getByText("live", { exact: true }).waitFor();
  await other.page.goto(`${url}/grants`);
  await other.page.getByRole("button", { name: "Ask for a role" }).click();
  const d = other.page.getByRole("dialog");
  await d.getByLabel("For how long").fill("3h");
  await d.getByText("at most 2h").first().waitFor();
  await d.getByLabel("For how long").fill("1h");
  await d.getByLabel("Why").fill("replication is stuck <b>now</b>");
  await d.getByLabel("Ticket").fill("nonsense");
  await d.getByRole("button", { name: "Ask", exact: true }).click();
  await d.getByRole("alert").waitFor();
  await picture(other.page, "ask-refused");
  await d.getByLabel("Ticket").fill("OPS-7");
  await d.getByText("The same on the command line").click();
  await d.getByText("loopback grant request --role operator").waitFor();
  await d.getByRole("button", { name: "Ask", exact: true }).click();
  await other.page.getByRole("heading", { name: "operator for you" }).waitFor();
  await page.getByRole("link", { name: /Grants.*1.*to decide/ }).waitFor();
  await page.getByRole("button", { name: /want.* you/ }).click();
  await page.getByRole("dialog").getByText("deployer asks for operator").waitFor();
  await picture(page, "attention");
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" "))}`), []);
  await page.getByRole("dialog").getByText("deployer asks for operator").click();
});

test("nobody approves what they asked for; the other does, and both see it", async () => {
  const mine = other.page.getByRole("dialog").getByRole("button", { name: "Approve…" });
  if (await mine.count()) assert.match(await mine.getAttribute("title"), /nobody approves/);
  const d = page.getByRole("dialog");
  await d.getByRole("heading", { name: "operator for deployer" }).waitFor();
  await d.getByRole("button", { name: "Approve…" }).click();
  await d.getByLabel("Comment").fill("looked at the ticket");
  await picture(page, "approve");
  await d.getByRole("button", { name: "Approve", exact: true }).click();
  await d.waitFor({ state: "detached" });
  await page.getByRole("row").filter({ hasText: "deployer" }).getByText("active").waitFor();
  await page.getByRole("link", { name: /Grants.*to decide/ }).waitFor({ state: "detached" });
  await other.page.getByRole("dialog").getByText("active").waitFor();
  await picture(page, "grants-live");
});

test("it is taken back before its time", async () => {
  await page.getByRole("row").filter({ hasText: "deployer" }).getByRole("button").first().click();
  const d = page.getByRole("dialog");
  await d.getByRole("button", { name: "Revoke…" }).click();
  await d.getByLabel("Comment").fill("solved");
  await d.getByRole("button", { name: "Revoke", exact: true }).click();
  await page.getByRole("row").filter({ hasText: "deployer" }).getByText("revoked").waitFor();
  await other.page.getByRole("dialog").getByText("revoked").waitFor();
});

test("another is denied, and a third withdrawn by who asked", async () => {
  const denied = await call("GrantService/RequestGrant", { role: "operator", reason: "again", ticket: "OPS-8" }, asker);
  await page.goto(`${url}/grants?open=${denied.id}`);
  const d = page.getByRole("dialog");
  await d.getByRole("button", { name: "Deny…" }).click();
  await d.getByRole("button", { name: "Deny", exact: true }).click();
  await page.getByRole("row").filter({ hasText: "again" }).getByText("denied").waitFor();
  const third = await call("GrantService/RequestGrant", { role: "operator", reason: "a third time", ticket: "OPS-9" }, asker);
  await other.page.goto(`${url}/grants?open=${third.id}`);
  await other.page.getByRole("dialog").getByRole("button", { name: "Withdraw…" }).click();
  await other.page.getByRole("dialog").getByRole("button", { name: "Withdraw", exact: true }).click();
  await other.page.getByRole("row").filter({ hasText: "a third time" }).getByText("cancelled").waitFor();
  assert.deepEqual(b.complaints.filter((c) => !/40[0-9]|status of/.test(c)), []);
});
