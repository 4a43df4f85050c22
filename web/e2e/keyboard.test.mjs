// The work of a day without a mouse: mint, enrol, filter, label, act on many, revoke; give a role, ask for one, approve, review.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { key, launch, picture, url } from "./browser.mjs";

let b;
before(async () => {
  b = await launch();
});
after(() => b?.close());
afterEach(async (t) => {
  if (t.error) await picture(b.page, `failed-keyboard-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

/** What has the focus, as a screen reader would name it, and whether one can see that it has it. */
function focused(page) {
  return page.evaluate(() => {
    const e = document.activeElement;
    if (!e || e === document.body) return { name: "", seen: true };
    const label = e.getAttribute("aria-label") ?? e.labels?.[0]?.innerText ?? e.innerText ?? "";
    const style = getComputedStyle(e);
    const seen = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || e.getAttribute("role") === "combobox" || e.id === "main" || e.tagName === "DIALOG";
    return { name: label.trim().split("\n")[0], seen, tag: e.tagName };
  });
}

/** Presses Tab until what is wanted has the focus. Every stop on the way can be seen. */
async function reach(page, wanted, { most = 80, back = false } = {}) {
  const passed = [];
  for (let i = 0; i < most; i++) {
    await page.keyboard.press(back ? "Shift+Tab" : "Tab");
    const at = await focused(page);
    passed.push(at.name);
    assert.ok(at.seen, `the focus on ${at.tag} "${at.name}" cannot be seen`);
    if (wanted instanceof RegExp ? wanted.test(at.name) : at.name === wanted) return;
  }
  assert.fail(`${wanted} is not reached by Tab; passed: ${passed.join(" | ")}`);
}

async function goTo(page, name) {
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "Go to" }).waitFor();
  await page.keyboard.type(name);
  await page.getByRole("option", { name: new RegExp(name) }).first().waitFor();
  await page.keyboard.press("Enter");
}

test("sign in", async () => {
  const { page } = b;
  await page.goto(url);
  await page.getByLabel("API key or one-time code").waitFor();
  if ((await focused(page)).name !== "API key or one-time code") await reach(page, "API key or one-time code");
  await page.keyboard.type(key);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
});

test("what is typed right after Ctrl K is for the field", async () => {
  const { page } = b;
  for (let i = 0; i < 5; i++) {
    // Closer upon one another than a keyboard's own: nothing is drawn in between.
    const open = await page.evaluate(() => {
      window.dispatchEvent(new KeyboardEvent("keydown", { ctrlKey: true, key: "k" }));
      return document.activeElement?.role ?? document.activeElement?.getAttribute("role");
    });
    assert.equal(open, "combobox");
    await page.keyboard.press("Escape");
    await page.getByRole("combobox", { name: "Go to" }).waitFor({ state: "hidden" });
  }
});

test("the first Tab leads past the navigation", async () => {
  const { page } = b;
  await page.goto(`${url}/hosts`);
  await page.getByRole("heading", { name: "Hosts" }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal((await focused(page)).name, "Skip to the page");
  await page.keyboard.press("Enter");
  await reach(page, "Enrol a host", { most: 2 });
});

test("mint a token, and see where to run the installer", async () => {
  const { page } = b;
  await goTo(page, "Enrol a host");
  await page.getByRole("heading", { name: "Enrol a host" }).waitFor();
  await reach(page, "What it is for");
  await page.keyboard.type("by keyboard");
  await page.keyboard.press("Enter");
  await page.getByText("Waiting for the first host").waitFor();
  await reach(page, "Copy token");
  await page.keyboard.press("Enter");
  await page.getByText("Token copied").waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^lbt_/);
});

test("filter, and label a host", async () => {
  const { page } = b;
  await goTo(page, "Hosts");
  await page.getByRole("heading", { name: "Hosts" }).waitFor();
  await reach(page, "query");
  await page.keyboard.type("name=worker-2");
  await page.getByText("1 match").waitFor();
  await reach(page, "worker-2");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "worker-2" }).waitFor();
  await reach(page, "Labels");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.match((await focused(page)).name, /^Labels/);
  await page.keyboard.press("End");
  await page.keyboard.type(" keyboard=yes");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await page.getByText("keyboard=yes").first().waitFor();
  assert.equal((await focused(page)).name, "Labels", "the dialog gives the focus back");
});

test("act on several hosts", async () => {
  const { page } = b;
  await goTo(page, "Hosts");
  await page.getByRole("heading", { name: "Hosts" }).waitFor();
  await reach(page, "query");
  await page.keyboard.press("Control+a");
  await page.keyboard.type("label.keyboard=yes");
  await page.getByText("1 match").waitFor();
  await reach(page, "select all that are shown");
  await page.keyboard.press("Space");
  await page.getByRole("toolbar").waitFor();
  await reach(page, "Quarantine", { back: true });
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.type("no hands");
  await reach(page, "Quarantine");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("quarantined").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await page.getByRole("row").filter({ hasText: "no hands" }).waitFor();
});

test("revoke the token", async () => {
  const { page } = b;
  await goTo(page, "Tokens");
  await page.getByRole("row").filter({ hasText: "by keyboard" }).waitFor();
  const name = await page.getByRole("row").filter({ hasText: "by keyboard" }).getByRole("button").innerText();
  await reach(page, name);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await reach(page, "Revoke…");
  await page.keyboard.press("Enter");
  await page.getByLabel("Reason").waitFor();
  assert.equal((await focused(page)).name, "Reason");
  await page.keyboard.type("a test");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await page.getByRole("row").filter({ hasText: "by keyboard" }).getByText("revoked").waitFor();
});

async function call(method, body, as = key) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${as}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${JSON.stringify(said)}`);
  return said;
}

test("give a role, having seen what changes", async () => {
  const { page } = b;
  await call("UserService/CreateUser", { name: "keyboardist" });
  await goTo(page, "Access: bindings");
  await page.getByRole("heading", { name: "Bindings" }).waitFor();
  await reach(page, "New binding");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.equal((await focused(page)).name, "Who");
  await page.keyboard.type("keyboardist");
  await reach(page, "Role");
  await page.keyboard.type("memb");
  await reach(page, "See what changes");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("1 gains, nobody loses").waitFor();
  await reach(page, "Give");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("row").filter({ hasText: "keyboardist" }).waitFor();
});

// A role that no other test offers: of several policies for one role the server chooses.
test("ask for a role", async () => {
  const { page } = b;
  await call("GrantPolicyService/CreateGrantPolicy", { name: "by-keyboard", role: "auditor", approvals: 1 });
  await goTo(page, "Grants");
  await page.getByRole("heading", { name: "Grants" }).waitFor();
  await reach(page, "Ask for a role");
  await page.keyboard.press("Enter");
  await page.getByLabel("What is offered").waitFor();
  await reach(page, "Why");
  await page.keyboard.type("no hands");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "auditor for you" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("row").filter({ hasText: "no hands" }).getByText("pending").waitFor();
});

test("approve what somebody asks for, from what wants one", async () => {
  const { page } = b;
  await call("ServiceAccountService/CreateServiceAccount", { name: "asks-by-api" });
  await call("BindingService/CreateBinding", { serviceAccount: "asks-by-api", role: "member" });
  const made = await call("ApiKeyService/CreateApiKey", { name: "asks-by-api", serviceAccount: "asks-by-api", permissions: ["*"] });
  await call("GrantService/RequestGrant", { role: "auditor", reason: "a test" }, made.secret);
  await page.getByRole("button", { name: /want.* you/ }).waitFor();
  await page.reload();
  await page.getByRole("button", { name: /want.* you/ }).waitFor();
  await reach(page, /want.* you/);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  if (!/asks-by-api/.test((await focused(page)).name)) await reach(page, /asks-by-api/);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "auditor for asks-by-api" }).waitFor();
  await reach(page, "Approve…");
  await page.keyboard.press("Enter");
  await page.getByLabel("Comment").waitFor();
  await reach(page, "Approve");
  await page.keyboard.press("Enter");
  await page.getByRole("row").filter({ hasText: "asks-by-api" }).getByText("active").waitFor();
});

test("answer for what somebody else holds", async () => {
  const { page } = b;
  await call("BindingService/CreateBinding", { user: "keyboardist", role: "member", workspace: "default" });
  await call("AccessReviewService/CreateAccessReview", { name: "by-keyboard", workspace: "default", dueAt: new Date(Date.now() + 86400_000).toISOString() });
  await goTo(page, "Access: reviews");
  await page.getByRole("heading", { name: "Reviews" }).waitFor();
  await page.getByRole("row").filter({ hasText: "by-keyboard" }).waitFor();
  await reach(page, "by-keyboard");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "by-keyboard" }).waitFor();
  await page.getByRole("row").filter({ hasText: "keyboardist" }).waitFor();
  await reach(page, /^select bnd_/);
  await page.keyboard.press("Space");
  await page.getByText("1 selected").waitFor();
  await reach(page, "Keep…", { back: true });
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.equal((await focused(page)).name, "Rationale");
  await page.keyboard.type("no hands");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("list", { name: "how far it is" }).getByText("1 kept").waitFor();
  await call("UserService/DeleteUser", { user: "keyboardist" }); // whose role would be under every later review
});
