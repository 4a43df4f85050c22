// Who may do what: made, seen before it is made, asked about, and taken back; and what the server refuses is said in place.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { key, launch, picture, signIn, url } from "./browser.mjs";

let b, page;
before(async () => {
  b = await launch();
  page = b.page;
  await signIn(page);
});
after(() => b?.close());
afterEach(async (t) => {
  if (t.error) await picture(page, `failed-access-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

async function call(method, body) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` }, body: JSON.stringify(body) });
  return answer.json();
}

const dialog = () => page.getByRole("dialog");

test("a person, a group and who is in it", async () => {
  await page.goto(`${url}/access/people`);
  await page.getByRole("button", { name: "New person" }).click();
  await dialog().getByLabel("Name", { exact: true }).fill("grace");
  await dialog().getByLabel("E-mail").fill("grace@example.com");
  await dialog().getByText("The same on the command line").click();
  await dialog().getByText("loopback user create grace --email grace@example.com").waitFor();
  await dialog().getByRole("radio", { name: "curl" }).check();
  await dialog().getByText("loopback.v1.UserService/CreateUser").waitFor();
  await dialog().getByRole("button", { name: "Add" }).click();
  await page.getByRole("row").filter({ hasText: "grace@example.com" }).waitFor();
  // what others do appears by itself
  await call("UserService/CreateUser", { name: "linus", description: '<img src=x onerror="alert(1)"> مرحبا' });
  await page.getByRole("row").filter({ hasText: "linus" }).waitFor();

  await page.getByRole("navigation", { name: "Access" }).getByRole("link", { name: "Groups" }).click();
  await page.getByRole("button", { name: "New group" }).click();
  await dialog().getByLabel("Name", { exact: true }).fill("pioneers");
  await dialog().getByRole("button", { name: "Make group" }).click();
  await page.getByRole("button", { name: "pioneers" }).click();
  await dialog().getByLabel("Put somebody in").fill("grace");
  await dialog().getByRole("button", { name: "Add" }).click();
  await dialog().getByRole("listitem").filter({ hasText: "grace" }).waitFor();
  await dialog().getByLabel("Put somebody in").fill("nobody-of-that-name");
  await dialog().getByRole("button", { name: "Add" }).click();
  await dialog().getByRole("alert").waitFor();
  await picture(page, "group");
});

test("who gains what is seen before a binding is made, and who loses it before it is deleted", async () => {
  await page.goto(`${url}/access/bindings`);
  await page.getByRole("button", { name: "New binding" }).click();
  await dialog().getByLabel("Kind").selectOption("group");
  await dialog().getByLabel("Who", { exact: true }).fill("pioneers");
  await dialog().getByLabel("Role", { exact: true }).selectOption("operator");
  await dialog().getByLabel("Only on hosts").fill("role=db");
  await dialog().getByRole("button", { name: "See what changes" }).click();
  const changes = dialog().getByRole("region", { name: "what changes" });
  await changes.getByText("1 gains, nobody loses").waitFor();
  await changes.getByText("grace").first().waitFor();
  await picture(page, "binding-diff");
  const before = (await call("BindingService/ListBindings", {})).items.length;
  await dialog().getByRole("button", { name: "Back" }).click();
  assert.equal(await dialog().getByLabel("Who", { exact: true }).inputValue(), "pioneers", "what was typed is still there");
  await dialog().getByRole("button", { name: "See what changes" }).click();
  await dialog().getByRole("button", { name: "Give" }).click();
  await dialog().waitFor({ state: "detached" });
  assert.equal((await call("BindingService/ListBindings", {})).items.length, before + 1);
  await page.getByRole("row").filter({ hasText: "pioneers" }).getByRole("button").click();
  await dialog().getByRole("button", { name: "Delete…" }).click();
  await dialog().getByText("nobody gains, 1 loses").waitFor();
  await picture(page, "binding-delete");
  await dialog().getByRole("button", { name: "Back" }).click();
});

test("questions are answered with the rule that decides", async () => {
  await page.goto(`${url}/access/questions`);
  await page.getByLabel("Who", { exact: true }).fill("grace");
  await page.getByLabel("Permission").fill("hosts.quarantine");
  await page.getByLabel("On the host").fill("db-1");
  await page.getByRole("button", { name: "Ask" }).click();
  const answer = page.locator("section").filter({ has: page.getByRole("heading", { name: "Answer" }) });
  await answer.getByText("decided").waitFor();
  await answer.getByRole("cell", { name: "operator" }).waitFor();
  await page.waitForURL(/permission=hosts.quarantine/);
  await picture(page, "why");
  await page.getByLabel("On the host").fill("web-1");
  await page.getByRole("button", { name: "Ask" }).click();
  await answer.getByText(/may not/).waitFor();
  await page.getByRole("radio", { name: "Who can?" }).check();
  await page.getByLabel("On the host").fill("db-1");
  await page.getByRole("button", { name: "Ask" }).click();
  await answer.getByRole("cell", { name: /grace/ }).waitFor();
  await page.getByRole("radio", { name: "What can somebody do?" }).check();
  await page.getByRole("button", { name: "Ask" }).click();
  await answer.getByText(/grace holds/).waitFor();
  await answer.getByRole("cell", { name: "hosts.quarantine", exact: true }).waitFor();
  await picture(page, "what-can");
});

test("a role is made, and what a change of it does is seen first", async () => {
  await page.goto(`${url}/access/roles`);
  await page.getByRole("button", { name: "New role" }).click();
  await dialog().getByLabel("Name", { exact: true }).fill("labeller");
  await dialog().getByLabel("find permissions").fill("hosts.");
  await dialog().getByRole("checkbox", { name: /^hosts\.read/ }).check();
  await dialog().getByRole("checkbox", { name: /^hosts\.label/ }).check();
  await dialog().getByRole("button", { name: "Make role" }).click();
  await page.getByRole("row").filter({ hasText: "labeller" }).waitFor();
  await call("BindingService/CreateBinding", { user: "linus", role: "labeller" });
  await page.getByRole("button", { name: "labeller" }).click();
  await dialog().getByRole("button", { name: "Change…" }).click();
  await dialog().getByRole("checkbox", { name: /^hosts\.label/ }).uncheck();
  await dialog().getByRole("button", { name: "See what changes" }).click();
  await dialog().getByText("nobody gains, 1 loses").waitFor();
  await dialog().getByText("linus").waitFor();
  await dialog().getByRole("button", { name: "Change it" }).click();
  await page.getByRole("row").filter({ hasText: "labeller" }).filter({ hasNotText: "hosts.label " }).waitFor();
});

test("what the server refuses is said in place: the last owner, and what one does not hold", async () => {
  await page.goto(`${url}/access/bindings`);
  await page.getByRole("row").filter({ hasText: "owner" }).getByRole("button").click();
  await dialog().getByRole("button", { name: "Delete…" }).click();
  await dialog().getByRole("button", { name: "Delete the binding" }).click();
  await dialog().getByRole("alert").getByText("last_owner").waitFor();
  await picture(page, "last-owner");

  await call("ServiceAccountService/CreateServiceAccount", { name: "small-admin" });
  await call("RoleService/CreateRole", { name: "binder", permissions: ["bindings.create", "bindings.read", "roles.read", "users.read", "access.explain", "hosts.read"] });
  await call("BindingService/CreateBinding", { serviceAccount: "small-admin", role: "binder" });
  const made = await call("ApiKeyService/CreateApiKey", { name: "small-admin", serviceAccount: "small-admin", permissions: ["*"] });
  const other = await launch();
  try {
    await signIn(other.page, made.secret);
    await other.page.goto(`${url}/access/bindings`);
    await other.page.getByRole("button", { name: "New binding" }).click();
    const d = other.page.getByRole("dialog");
    await d.getByLabel("Who", { exact: true }).fill("linus");
    await d.getByLabel("Role", { exact: true }).selectOption("admin");
    await d.getByRole("button", { name: "See what changes" }).click();
    await d.getByRole("button", { name: "Give" }).click();
    await d.getByRole("alert").getByText("permission_not_held").waitFor();
    await picture(other.page, "not-held");
  } finally {
    await other.close();
  }
});

test("somebody is disabled, enabled and deleted", async () => {
  await page.goto(`${url}/access/people`);
  const row = page.getByRole("row").filter({ hasText: "linus" });
  await row.getByRole("button").click();
  await dialog().getByRole("button", { name: "Disable…" }).click();
  await dialog().getByRole("button", { name: "Disable", exact: true }).click();
  await row.getByText("disabled").waitFor();
  await dialog().getByRole("button", { name: "Enable…" }).click();
  await dialog().getByRole("button", { name: "Enable", exact: true }).click();
  await row.getByText("active").waitFor();
  await dialog().getByRole("button", { name: "Delete…" }).click();
  await dialog().getByRole("button", { name: "Delete", exact: true }).click();
  await row.waitFor({ state: "detached" });
});

test("a permission that is taken while the page is open is missed at once", async () => {
  await call("ServiceAccountService/CreateServiceAccount", { name: "passing" });
  const binding = await call("BindingService/CreateBinding", { serviceAccount: "passing", role: "admin" });
  const made = await call("ApiKeyService/CreateApiKey", { name: "passing", serviceAccount: "passing", permissions: ["*"] });
  const other = await launch();
  try {
    await signIn(other.page, made.secret);
    await other.page.goto(`${url}/access/people`);
    await other.page.getByRole("row").filter({ hasText: "grace" }).waitFor();
    await call("BindingService/CreateBinding", { serviceAccount: "passing", role: "member" });
    await call("BindingService/DeleteBinding", { binding: binding.id });
    await other.page.getByText("This page is not yours to see").waitFor();
    assert.equal(await other.page.getByRole("link", { name: "Access" }).count(), 0);
  } finally {
    await other.close();
  }
});
