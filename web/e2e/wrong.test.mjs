// What goes wrong around a page that is open: the control plane goes and comes, the network does, somebody else edits the same
// thing, a session ends, hosts tell what nobody expects, and the API is older or newer than the page.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { key, launch, picture, signIn, url } from "./browser.mjs";
import { pages } from "./pages.mjs";

const AxeBuilder = axe.default ?? axe;

let b, page;
before(async () => {
  b = await launch();
  page = b.page;
  await signIn(page);
});
after(() => b?.close());
afterEach(async (t) => {
  await page.unrouteAll({ behavior: "ignoreErrors" });
  if (t.error) await picture(page, `failed-wrong-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

async function call(method, body, as = key) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${as}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${JSON.stringify(said)}`);
  return said;
}

async function control(what) {
  const answer = await fetch(process.env.CONSOLE_CONTROL + what, { method: "POST" });
  assert.ok(answer.ok, await answer.text());
}

const dialog = () => page.getByRole("dialog");

test("a session that ends over an open form: one signs in above it, and what was typed is sent", async () => {
  const made = await call("ApiKeyService/CreateApiKey", { name: "short-lived-too", permissions: ["*"] });
  const other = await launch();
  try {
    await signIn(other.page, made.secret);
    await other.page.goto(`${url}/access/people`);
    await other.page.getByRole("button", { name: "New person" }).click();
    const form = other.page.getByRole("dialog", { name: "New person" });
    await form.getByLabel("Name", { exact: true }).fill("typed-before-the-end");
    await call("ApiKeyService/RevokeApiKey", { apiKey: made.apiKey.id });
    await form.getByRole("button", { name: "Add" }).click();
    const again = other.page.getByRole("dialog", { name: /sign in again/ });
    await again.waitFor();
    await other.page.keyboard.press("Escape"); // it cannot be left
    await other.page.keyboard.press("Escape");
    await picture(other.page, "signin-again");
    await again.getByLabel("API key or one-time code").fill(key);
    await again.getByRole("button", { name: "Sign in" }).click();
    await again.waitFor({ state: "detached" });
    assert.equal(await form.getByLabel("Name", { exact: true }).inputValue(), "typed-before-the-end");
    await form.getByRole("button", { name: "Add" }).click();
    await other.page.getByRole("row").filter({ hasText: "typed-before-the-end" }).waitFor();
  } finally {
    await other.close();
  }
});

test("two people label one host: what others did stays, and the same label is shown as both made it", async () => {
  const { items } = await call("HostService/ListHosts", { query: "name=web-3" });
  await page.goto(`${url}/hosts/${items[0].id}`);
  await page.getByRole("button", { name: "Labels" }).click();
  const field = dialog().getByRole("textbox", { name: "Labels" });
  await field.fill(`${await field.inputValue()} team=mine`);
  await call("HostService/LabelHost", { host: "web-3", set: { team: "theirs", other: "kept" } });
  const both = dialog().getByRole("alert");
  await both.getByText("theirs", { exact: true }).waitFor();
  await both.getByText("mine", { exact: true }).waitFor();
  await picture(page, "labels-both");
  await dialog().getByRole("button", { name: "Save mine over it" }).click();
  await dialog().waitFor({ state: "hidden" });
  const { labels } = await call("HostService/GetHost", { host: "web-3" });
  assert.equal(labels.team, "mine");
  assert.equal(labels.other, "kept", "a label that the form never knew is not taken away");
});

test("two people change one person, and one role: what only the other changed stays, the rest is shown as both made it", async () => {
  const user = await call("UserService/CreateUser", { name: "changed-twice", email: "first@example.com", description: "as it was" });
  await page.goto(`${url}/access/people?open=${user.id}`);
  await dialog().getByRole("button", { name: "Change…" }).click();
  await dialog().getByLabel("Who this is").fill("mine");
  await call("UserService/UpdateUser", { user: user.id, email: "second@example.com", description: "theirs", revision: user.revision });
  await dialog().getByRole("alert").getByText("theirs", { exact: true }).waitFor();
  assert.equal(await dialog().getByLabel("E-mail").inputValue(), "second@example.com", "what was not typed into follows");
  await dialog().getByRole("button", { name: "Save mine over it" }).click();
  await dialog().getByText("mine", { exact: true }).waitFor();
  const now = await call("UserService/GetUser", { user: user.id });
  assert.deepEqual([now.email, now.description], ["second@example.com", "mine"]);

  const role = await call("RoleService/CreateRole", { name: "changed-twice", permissions: ["hosts.read", "hosts.label"] });
  await page.goto(`${url}/access/roles?open=${role.id}`);
  await dialog().getByRole("button", { name: "Change…" }).click();
  await dialog().getByRole("checkbox", { name: /^hosts\.label/ }).uncheck();
  await call("RoleService/UpdateRole", { role: role.id, permissions: ["hosts.read", "hosts.label", "hosts.approve"], revision: role.revision });
  await dialog().getByRole("alert").getByText(/hosts\.approve/).waitFor();
  await picture(page, "role-both");
  await dialog().getByRole("button", { name: "Take theirs" }).click();
  assert.ok(await dialog().getByRole("checkbox", { name: /^hosts\.approve/ }).isChecked());
});

test("what hosts tell is text, however long and whatever it says", async () => {
  await page.goto(`${url}/hosts?q=says-too-much`);
  await page.getByRole("link", { name: "says-too-much", exact: true }).click();
  await page.getByRole("heading", { name: "says-too-much" }).waitFor();
  await page.getByText("onerror").first().waitFor();
  for (const [shape, size] of Object.entries({ wide: { width: 1440, height: 900 }, phone: { width: 390, height: 800 } })) {
    await page.setViewportSize(size);
    await picture(page, `hostile-${shape}`);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 1, shape);
  }
  await page.setViewportSize({ width: 1440, height: 900 });
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => v.id), []);
  assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
});

// The control plane bounds what a host may tell; the page does not lean on that: here every text of every host is worse than it lets through.
test("names of ten thousand characters, right to left, emoji and HTML in every field", async () => {
  const worst = `<img src=x onerror="globalThis.pwned=1"><svg onload="globalThis.pwned=1"> \u202eשלום مرحبا 🦀👩‍👩‍👧‍👦 ${"x".repeat(10_000)}`;
  const kept = /^(id|state|status|since|at|.*At|.*Id|code|verdict|revision|.*Revision|digest|previousState)$/;
  const worsen = (v, name = "") => (Array.isArray(v) ? v.map((x) => worsen(x, name)) : v && typeof v === "object" ? Object.fromEntries(Object.entries(v).map(([k, x]) => [name === "labels" ? `${k}${worst}` : k, worsen(x, k)])) : typeof v === "string" && !kept.test(name) && !/^-?\d+(\.\d+)?s?$/.test(v) ? worst : v); // numbers and lengths of time are texts in JSON, too
  await page.route(/HostService\/(List|Get)/, async (route) => {
    const answer = await route.fetch();
    const said = await answer.json();
    await route.fulfill({ response: answer, json: said.items ? { ...said, items: said.items.map((h) => worsen(h)) } : worsen(said) });
  });
  for (const path of ["/", "/hosts", `/hosts/${(await call("HostService/ListHosts", { query: "name=golden-image" })).items[0].id}`]) {
    for (const width of [1440, 390]) {
      await page.setViewportSize({ width, height: 900 });
      await page.goto(url + path);
      await page.getByText("onerror").first().waitFor();
      await picture(page, `worst-${path.split("/").slice(1, 3).map((p) => p.slice(0, 5)).join("-") || "overview"}-${width}`);
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 1, `${path} at ${width} px`);
      assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
    }
  }
  await page.setViewportSize({ width: 1440, height: 900 });
});

test("an API that is newer than the page: what the page does not know is left alone", async () => {
  await page.route(/loopback\.v1\.\w+Service\/(?!Watch)/, async (route) => {
    const answer = await route.fetch();
    if (!answer.ok()) return route.fulfill({ response: answer });
    const newer = (v) => (Array.isArray(v) ? v.map(newer) : v && typeof v === "object" ? { ...Object.fromEntries(Object.entries(v).map(([k, x]) => [k, newer(x)])), aFieldOfTomorrow: { is: ["this"] } } : v);
    const said = await answer.json();
    // Maps hold what they hold: labels and counts get nothing put in.
    const maps = new Set(["labels", "hostLabels", "byState", "byVersion", "hosts"]);
    const clean = (v) => (Array.isArray(v) ? v.map(clean) : v && typeof v === "object" ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, maps.has(k) && x?.aFieldOfTomorrow ? Object.fromEntries(Object.entries(x).filter(([n]) => n !== "aFieldOfTomorrow")) : clean(x)])) : v);
    const out = clean(newer(said));
    if (/HostService\/ListHosts/.test(route.request().url())) for (const h of out.items ?? []) if (/^web-/.test(h.name)) h.state = "hibernating";
    await route.fulfill({ response: answer, json: out });
  });
  b.complaints.length = 0;
  for (const path of Object.values(pages)) {
    await page.goto(url + path);
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
    assert.equal(await page.getByText("This page failed").count(), 0, path);
  }
  await page.goto(`${url}/hosts?q=web-`);
  await page.getByRole("row").filter({ hasText: "hibernating" }).first().waitFor();
  assert.deepEqual(b.complaints.splice(0), []);
});

test("an API that is older than the page: what it does not know is said, and the rest works", async () => {
  await page.route(/loopback\.v1\.(Shell|Exec|Sink)Service\//, (route) => route.fulfill({ status: 404, contentType: "text/plain", body: "404 page not found\n" }));
  await page.route(/SessionService\/WhoAmI|HostService\/(List|Get)Host/, async (route) => {
    const answer = await route.fetch();
    const said = await answer.json();
    const known = new Set(["id", "name", "state", "labels", "createdAt", "updatedAt", "since"]);
    const older = (h) => Object.fromEntries(Object.entries(h).filter(([k]) => known.has(k)));
    await route.fulfill({ response: answer, json: said.items ? { items: said.items.map(older) } : said.grants ? said : older(said) });
  });
  for (const path of ["/shells", "/commands", "/audit/sinks"]) {
    await page.goto(url + path);
    await page.getByRole("alert").getByText("this control plane does not know that").waitFor();
  }
  await picture(page, "older-api");
  await page.goto(`${url}/hosts`);
  await page.getByRole("link", { name: "web-1", exact: true }).click();
  await page.getByRole("heading", { name: "web-1" }).waitFor();
  await page.goto(url);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  assert.equal(await page.getByText("This page failed").count(), 0);
});

test("a page of before an update finds its parts gone: it is loaded anew, once", async () => {
  await page.goto(`${url}/hosts`);
  await page.getByRole("heading", { name: "Hosts" }).waitFor();
  let gone = 0;
  await page.route(/\/assets\/tokens-.*\.js/, (route) => (gone++ === 0 ? route.fulfill({ status: 404, contentType: "text/plain", body: "not found" }) : route.continue()));
  await page.getByRole("navigation", { name: "main" }).getByRole("link", { name: "Tokens" }).click();
  await page.getByRole("heading", { name: "Tokens" }).waitFor();
  assert.ok(gone >= 2, "it was asked for again");
});

test("the network drops for a minute: it is said, and what happened meanwhile is there afterwards", async () => {
  const other = await launch();
  try {
    const p = other.page;
    await p.clock.install();
    await signIn(p);
    await p.goto(`${url}/hosts?q=worker-1`);
    const row = p.getByRole("row").filter({ has: p.getByRole("link", { name: "worker-1", exact: true }) });
    await row.getByText("managed").waitFor();
    await p.getByText("live", { exact: true }).waitFor();
    await other.context.setOffline(true);
    await p.clock.runFor(5_000);
    await p.getByText("this computer is offline").waitFor();
    await call("HostService/QuarantineHost", { host: "worker-1", reason: "while nobody listened" });
    await p.clock.runFor(55_000);
    await row.waitFor(); // what was there stays
    await picture(p, "offline");
    await other.context.setOffline(false);
    await p.clock.runFor(20_000);
    await p.getByText("live", { exact: true }).waitFor();
    await p.clock.runFor(5_000);
    await row.getByText("while nobody listened").waitFor();
    await call("HostService/ReleaseHost", { host: "worker-1" });
  } finally {
    await other.close();
  }
});

test("the control plane restarts while somebody types: it is said, and nothing typed is lost", async () => {
  await page.goto(`${url}/access/people`);
  await page.getByText("live", { exact: true }).waitFor();
  await page.getByRole("button", { name: "New person" }).click();
  await dialog().getByLabel("Name", { exact: true }).fill("typed-meanwhile");
  await control("/stop");
  await page.getByText("reconnecting…").waitFor();
  await dialog().getByRole("button", { name: "Add" }).click();
  await dialog().getByRole("alert").getByText("the control plane does not answer").waitFor();
  await picture(page, "restart");
  await dialog().getByLabel("E-mail").fill("typed@example.com");
  await control("/start");
  await page.getByText("live", { exact: true }).waitFor();
  assert.equal(await dialog().getByLabel("Name", { exact: true }).inputValue(), "typed-meanwhile");
  await dialog().getByRole("button", { name: "Add" }).click();
  await page.getByRole("row").filter({ hasText: "typed@example.com" }).waitFor();
});
