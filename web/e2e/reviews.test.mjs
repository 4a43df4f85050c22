// Standing access is reviewed: what others hold is kept with a rationale or revoked, one by one or many at once. And what an auditor looks
// at besides: how long the log is kept, and who else remembers it.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { key, launch, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
let b, page;

async function call(method, body) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${said.message}`);
  return said;
}

async function fine() {
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`), []);
}

const dialog = () => page.getByRole("dialog");
const row = (text) => page.getByRole("row").filter({ hasText: text });

before(async () => {
  for (const name of ["rosa", "otto", "ines", "nils"]) {
    await call("UserService/CreateUser", { name });
    await call("BindingService/CreateBinding", { user: name, role: "member", workspace: "default", description: "since the beginning" });
  }
  b = await launch();
  page = b.page;
  await signIn(page);
});
after(() => b?.close());
afterEach(async (t) => {
  if (t.error) await picture(page, `failed-reviews-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

test("a review is begun, and lists who holds what", async () => {
  await page.goto(`${url}/access/reviews`);
  await page.getByRole("button", { name: "New review" }).click();
  await dialog().getByLabel("Name", { exact: true }).fill("q4-default");
  await dialog().getByLabel("Of what is held").selectOption({ label: "default/default/default" });
  await dialog().getByLabel("Time to answer").fill("1h");
  await dialog().getByText("people need time to answer").waitFor();
  await dialog().getByLabel("Time to answer").fill("14d");
  await dialog().getByText("The same on the command line").click();
  await dialog().getByText("loopback review create q4-default --in-workspace default/default/default --within 14d").waitFor();
  await picture(page, "review-form");
  await fine();
  await dialog().getByRole("button", { name: "Begin" }).click();
  await page.getByRole("heading", { name: "q4-default" }).waitFor();
  await row("rosa").getByText("open").waitFor();
  await picture(page, "review-open");
  await fine();
  await page.getByRole("button", { name: /wants? you/ }).click();
  await dialog().getByRole("link").filter({ hasText: "of q4-default are to be answered for" }).waitFor();
  await picture(page, "attention-review");
  await dialog().getByRole("button", { name: "Close" }).click();
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "review-open-dark");
  await fine();
  await page.setViewportSize({ width: 390, height: 800 });
  await picture(page, "review-phone");
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), "it is wider than a phone");
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
});

test("many are kept at once, one is revoked; neither without why", async () => {
  for (const name of ["rosa", "otto"]) await row(name).getByRole("checkbox").check();
  await page.getByText("2 selected").waitFor();
  await page.getByRole("button", { name: "Keep…" }).click();
  await dialog().getByRole("list", { name: "bindings" }).getByText("otto").waitFor();
  assert.ok(await dialog().getByRole("button", { name: "Keep", exact: true }).isDisabled(), "nothing is kept without a rationale");
  await dialog().getByLabel("Rationale").fill("on call for the databases");
  await picture(page, "review-keep");
  await fine();
  await dialog().getByRole("button", { name: "Keep", exact: true }).click();
  await row("rosa").waitFor({ state: "detached" });
  await page.getByRole("list", { name: "how far it is" }).getByText("2 kept").waitFor();

  await row("ines").getByRole("button", { name: "ines" }).click();
  await dialog().getByText("since the beginning").waitFor();
  await picture(page, "review-one");
  await dialog().getByRole("button", { name: "Revoke…" }).click();
  await dialog().getByLabel("Rationale").fill("changed teams");
  await dialog().getByRole("button", { name: "Revoke", exact: true }).click();
  await page.getByRole("list", { name: "how far it is" }).getByText("1 revoked").waitFor();
  await page.getByLabel("answer").selectOption("revoked");
  await row("ines").getByText("changed teams").waitFor();
  const ines = await call("UserService/GetUser", { user: "ines" });
  assert.deepEqual((await call("BindingService/ListBindings", { subject: ines.id })).items, []);
});

test("what is answered elsewhere is seen here; what the server refuses is said in place", async () => {
  const [review] = (await call("AccessReviewService/ListAccessReviews", {})).items;
  await page.goto(`${url}/access/reviews/${review.id}`);
  await row("nils").getByRole("checkbox").check();
  await page.getByRole("button", { name: "Revoke…" }).click();
  await dialog().getByLabel("Rationale").fill("nobody knows him");
  const nils = (await call("AccessReviewService/ListAccessReviewItems", { accessReview: review.id })).items.find((i) => i.subjectName === "nils");
  await call("AccessReviewService/AnswerAccessReview", { accessReview: review.id, bindings: [nils.bindingId], answer: "keep", rationale: "I do" });
  await dialog().getByRole("button", { name: "Revoke", exact: true }).click();
  await dialog().getByRole("alert").filter({ hasText: "access_review_over" }).waitFor();
  assert.equal(await dialog().getByLabel("Rationale").inputValue(), "nobody knows him");
  await picture(page, "review-over");
  await dialog().getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("list", { name: "how far it is" }).getByText("3 kept").waitFor();
});

test("nobody answers for what they hold themselves; a review is ended before its time", async () => {
  const review = await call("AccessReviewService/CreateAccessReview", { name: "everybody", dueAt: new Date(Date.now() + 86400_000).toISOString(), revokeUnanswered: true });
  await page.goto(`${url}/access/reviews`);
  await row("everybody").getByRole("link").click();
  const mine = row("owner").filter({ hasText: "you" });
  await mine.getByRole("button").click();
  for (const name of ["Keep…", "Revoke…"]) assert.match(await dialog().getByRole("button", { name }).getAttribute("title"), /nobody answers for what they hold themselves/);
  await dialog().getByRole("button", { name: "Close" }).click();
  await page.getByRole("checkbox", { name: "select all that are shown" }).click();
  assert.equal(await mine.getByRole("checkbox").isChecked(), false, "one's own is left out");
  await page.getByRole("button", { name: "Select none" }).click();
  await page.getByRole("button", { name: "End it now…" }).click();
  await dialog().getByLabel("Reason").fill("begun by mistake");
  await dialog().getByRole("button", { name: "End the review" }).click();
  await page.getByText("cancelled").first().waitFor();
  assert.equal((await call("AccessReviewService/GetAccessReview", { accessReview: review.id })).state, "cancelled");
  await page.goto(`${url}/access/reviews`);
  await row("everybody").waitFor();
  await picture(page, "reviews");
  await fine();
});

test("a hold keeps everything; deleting asks twice", async () => {
  await page.goto(`${url}/audit/retention`);
  await page.getByRole("button", { name: "Change what is kept of everybody else" }).click();
  await dialog().getByRole("radio", { name: "for so many days" }).check();
  await dialog().getByLabel("Days", { exact: true }).fill("29");
  await dialog().getByText("at least 30").waitFor();
  await dialog().getByLabel("Days", { exact: true }).fill("400");
  const sure = dialog().getByRole("checkbox", { name: /cannot be brought back/ });
  await sure.waitFor();
  assert.ok(await dialog().getByRole("button", { name: "Delete what is older" }).isDisabled());
  await picture(page, "retention-form");
  await fine();
  await sure.check();
  await dialog().getByRole("button", { name: "Delete what is older" }).click();
  await row("everybody else").getByText("400 days").waitFor();
  await page.getByRole("button", { name: "Change what is kept of default" }).click();
  await dialog().getByRole("checkbox", { name: /On hold/ }).check();
  await dialog().getByLabel("Why").fill("case 2026-17");
  await dialog().getByText("The same on the command line").click();
  await dialog().getByText(/loopback audit retention --org default --keep-days \d+ --hold 'case 2026-17'/).waitFor();
  await dialog().getByRole("button", { name: "Keep it so" }).click();
  await row("case 2026-17").getByText("on hold").waitFor();
  await picture(page, "retention-held");
  for (const organisation of ["", "default"]) await call("AuditService/SetRetention", { organisation, keepDays: 0, hold: false });
});

test("witnesses: what hosts remember, and the key", async () => {
  await page.goto(`${url}/audit/witnesses`);
  await page.getByLabel("key", { exact: true }).waitFor();
  await picture(page, "witnesses-none");
  // Hosts of this harness keep no files: what real ones say is shown as it would come.
  const { checkpoint } = await call("AuditService/GetCheckpoint", {});
  const host = (await call("HostService/ListHosts", { query: "name=web-1" })).items[0];
  await page.route(/AuditService\/ListWitnesses/, (route) =>
    route.fulfill({
      json: {
        items: [
          { hostId: host.id, hostName: "web-1", scope: { workspaceId: host.workspaceId }, log: "1", size: "12", checkpoint, state: "applied", message: "remembers 12 entries", rememberedAt: new Date().toISOString() },
          { hostId: "hst_other", hostName: "db-1", log: "1", size: "9", checkpoint, state: "failed", message: "audit_log_rewritten: the log is not the one that was signed before", rememberedAt: new Date().toISOString() },
        ],
      },
    }),
  );
  await page.reload();
  await page.getByRole("alert").filter({ hasText: "One host refuses the log" }).waitFor();
  await picture(page, "witnesses");
  await fine();
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "witnesses-dark");
  await fine();
  await page.emulateMedia({ colorScheme: "light" });
  await row("db-1").getByRole("button").click();
  await dialog().getByText("audit_log_rewritten").waitFor();
  await picture(page, "witness");
  await fine();
  await page.unrouteAll();
});
