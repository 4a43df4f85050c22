// Signing in at an identity provider, a real one, in a real browser: groups there become roles here, an invitation lets in whom it is
// for, and who signs out everywhere is told so on every page that is open, which keeps what was typed.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { key, launch, picture, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
const control = process.env.CONSOLE_IDP;
let b, idp, corp;

async function call(method, body) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${said.message}`);
  return said;
}

async function tell(what, of) {
  const answer = await fetch(`${control}/${what}?${new URLSearchParams(of)}`, { method: "POST" });
  assert.ok(answer.ok, `${what}: ${answer.status}`);
}

/** Signs in on the provider's page. */
async function atProvider(page, name = idp.name) {
  await page.getByLabel("Username").fill(name);
  await page.getByLabel("Password").fill(idp.password);
  await page.getByRole("button", { name: "Login" }).click();
}

async function come(page, at = "/") {
  await page.goto(url + at);
  await page.getByRole("button", { name: "Continue with corp" }).click();
  await atProvider(page);
  await page.getByRole("navigation", { name: "main" }).waitFor();
}

async function fine(page) {
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`), []);
}

before(async () => {
  idp = await (await fetch(control)).json();
  for (const [group, role] of Object.entries({ "on-call": "operator", everybody: "member", leads: "admin" })) {
    await call("GroupService/CreateGroup", { name: group });
    await call("BindingService/CreateBinding", { group, role });
  }
  corp = await call("ProviderService/CreateProvider", {
    name: "corp",
    fields: { issuer: idp.issuer, clientId: idp.clientId, secret: idp.secret, ca: idp.ca, createUsers: true, groupsClaim: "groups", groups: { groups: { platform: "on-call", staff: "everybody", leads: "leads" } } },
  });
  await tell("return", { url: corp.returnUrl });
  b = await launch({ others: [idp.issuer] });
});
after(async () => {
  await b?.close();
  if (corp) await call("ProviderService/DeleteProvider", { identityProvider: corp.id });
});
afterEach(async (t) => {
  if (t.error) await picture(b.page, `failed-oidc-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

test("who the provider refuses is told so where they began", async () => {
  const { page } = b;
  await page.goto(`${url}/oidc/callback/${corp.id}?error=access_denied&state=x`);
  await page.getByRole("alert").filter({ hasText: "sign_in_state" }).waitFor();
  await page.getByRole("button", { name: "Continue with corp" }).waitFor();
  await picture(page, "oidc-refused");
});

test("groups at the provider are roles here, from the first page on", async () => {
  const { page } = b;
  await tell("groups", { subject: idp.subject, group: "platform" });
  await come(page, "/hosts?q=web");
  assert.equal(new URL(page.url()).pathname + new URL(page.url()).search, "/hosts?q=web", "back where it was left");
  const nav = page.getByRole("navigation", { name: "main" });
  await nav.getByRole("link", { name: "Enrol a host" }).waitFor();
  assert.equal(await nav.getByRole("link", { name: "Access" }).count(), 0, "an operator gives nobody access");
  await nav.getByRole("link", { name: idp.name }).waitFor();
  await page.goto(`${url}/account`);
  await page.getByRole("row").filter({ hasText: "identity provider" }).waitFor();
  await picture(page, "oidc-account");
});

test("who is no longer in the group has no longer the role, on pages that are open too", async () => {
  const { page } = b;
  await page.goto(`${url}/hosts`);
  await page.getByRole("navigation", { name: "main" }).getByRole("link", { name: "Enrol a host" }).waitFor();
  await tell("groups", { subject: idp.subject, group: "staff" });
  const other = await launch({ others: [idp.issuer] });
  try {
    await come(other.page);
    const nav = other.page.getByRole("navigation", { name: "main" });
    await nav.getByRole("link", { name: "Hosts" }).waitFor();
    assert.equal(await nav.getByRole("link", { name: "Enrol a host" }).count(), 0);
    await page.getByRole("navigation", { name: "main" }).getByRole("link", { name: "Enrol a host" }).waitFor({ state: "detached" });
  } finally {
    await other.close();
  }
});

test("signing out everywhere ends a page that is open elsewhere, and nothing typed is lost", async () => {
  const { page } = b;
  await tell("groups", { subject: idp.subject, group: "leads" });
  const other = await launch({ others: [idp.issuer] });
  try {
    await come(other.page, "/account");
    await page.goto(`${url}/keys`);
    await page.getByRole("button", { name: "New key" }).click();
    const form = page.getByRole("dialog", { name: "New API key" });
    await form.getByLabel("Name").fill("typed-before");
    await form.getByLabel("Permissions").fill("hosts.read");
    await other.page.getByRole("button", { name: "Sign out everywhere" }).click();
    await other.page.getByRole("dialog").getByRole("button", { name: "Sign out everywhere" }).click();
    await other.page.getByRole("heading", { name: "Sign in" }).waitFor();

    const again = page.getByRole("dialog", { name: "Your session has ended" });
    await again.waitFor();
    await picture(page, "oidc-ended");
    await fine(page);
    const opened = b.context.waitForEvent("page");
    await again.getByRole("button", { name: "Continue with corp" }).click();
    const beside = await opened;
    await atProvider(beside);
    await beside.getByRole("heading", { name: "You are signed in" }).waitFor();
    await picture(beside, "oidc-beside");
    await fine(beside);
    await beside.close();
    await again.waitFor({ state: "detached" });
    assert.equal(await form.getByLabel("Name").inputValue(), "typed-before");
    await form.getByRole("button", { name: "Make key" }).click();
    await page.getByText(/lbk_/).first().waitFor();
  } finally {
    await other.close();
  }
});

test("an invitation lets in whom it is for, as the provider says, and nobody else", async () => {
  await call("UserService/CreateUser", { name: "grete", email: idp.mail });
  await call("UserService/CreateUser", { name: "hedy", email: "hedy@example.com" });
  await call("BindingService/CreateBinding", { user: "grete", role: "member" });
  // Known as somebody already, they are nobody else.
  const hers = await call("InvitationService/CreateInvitation", { user: "grete" });
  const other = await launch({ others: [idp.issuer] });
  try {
    const { page } = other;
    const follow = async (link) => {
      await page.goto("about:blank");
      await page.goto(link);
      await page.getByRole("button", { name: "Continue with corp" }).click();
      await atProvider(page);
    };
    await follow(hers.url);
    await page.getByRole("alert").filter({ hasText: "invitation_other_person" }).waitFor();
    await call("ProviderService/DeleteIdentity", { identityProvider: corp.id, subject: idp.subject });
    const theirs = await call("InvitationService/CreateInvitation", { user: "hedy" });
    await follow(theirs.url);
    await page.getByRole("alert").filter({ hasText: "invitation_other_person" }).waitFor();
    await picture(page, "oidc-invited-other");
    await page.goto("about:blank");
    await page.goto(hers.url);
    await page.getByRole("heading", { name: "Welcome, grete" }).waitFor();
    await page.getByRole("button", { name: "Continue with corp" }).waitFor();
    await picture(page, "oidc-invite");
    await fine(page);
    assert.ok(!page.url().includes("lbi_"), `the link stays in the address: ${page.url()}`);
    await page.getByRole("button", { name: "Continue with corp" }).click();
    assert.ok(!page.url().includes("lbi_"));
    await atProvider(page);
    await page.getByRole("navigation", { name: "main" }).getByRole("link", { name: "grete" }).waitFor();
    await page.goto("about:blank");
    await page.goto(hers.url);
    await page.getByRole("alert").filter({ hasText: "invitation_used" }).waitFor();
  } finally {
    await other.close();
  }
});
