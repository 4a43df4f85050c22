// A guest of a shell, in two browsers: one who is signed in makes the link and takes it back, one who is nobody looks on.
import assert from "node:assert/strict";
import axe from "@axe-core/playwright";
import { launch, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
const session = process.env.CONSOLE_SESSION;

async function shows(page, text) {
  await page.waitForFunction((wanted) => document.querySelector(".xterm-rows")?.innerText.replaceAll("\u00a0", " ").includes(wanted), text);
}

async function looked(page, name) {
  for (const [shape, size] of Object.entries({ wide: { width: 1440, height: 900 }, phone: { width: 390, height: 800 } })) {
    await page.setViewportSize(size);
    await picture(page, `${name}-${shape}`);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 1, `${name}, ${shape}: the page is too wide`);
    const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).exclude(".xterm-rows").analyze();
    assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`), [], `${name}, ${shape}`);
  }
  await page.setViewportSize({ width: 1440, height: 900 });
}

const inside = await launch();
const outside = await launch();
try {
  const { page } = inside;
  await signIn(page);
  await page.goto(`${url}/shells/${session}`);
  await page.getByRole("button", { name: "Invite a guest…" }).click();
  const form = page.getByRole("dialog");
  await form.getByLabel("Who it is").fill("Vendor, Jane");
  await form.getByLabel("Reason").fill("case 4711");
  await picture(page, "guest-form");
  await form.getByRole("button", { name: "Make link" }).click();
  const link = (await form.locator("pre, code").filter({ hasText: "/guest/" }).first().innerText()).trim();
  const secret = link.split("#")[1];
  assert.match(link, new RegExp(`/guest/${session}#lbg_`));
  await page.getByRole("button", { name: "Done" }).click();
  assert.ok(!(await page.content()).includes(secret), "the secret is gone with its dialog");
  await page.getByRole("table", { name: "guests" }).getByText("waiting").waitFor();

  const guest = outside.page;
  const asked = [];
  outside.context.on("request", (r) => asked.push(r.url()));
  await guest.goto(url + new URL(link).pathname + new URL(link).hash);
  await shows(guest, "is recorded");
  await guest.getByRole("heading", { name: /Shell on/ }).waitFor();
  await guest.getByText(/lets you look on, Vendor, Jane/).waitFor();
  assert.ok(!guest.url().includes("#"), "the secret is out of the address at once");
  assert.deepEqual(asked.filter((u) => u.includes("/api/") || u.includes(secret)), [], "nothing is asked of the API, and the secret is in no address");
  await looked(guest, "guest");
  await guest.locator(".xterm-helper-textarea, .xterm").first().click();
  await guest.keyboard.type("echo typed\n");
  await page.getByText("guest Vendor, Jane, invited by administrator, watches").waitFor();
  await page.getByRole("table", { name: "guests" }).getByText("watching").waitFor();
  await looked(page, "guest-list");

  await page.getByRole("button", { name: "Take back" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Take it back" }).click();
  await guest.getByRole("alert").filter({ hasText: "the link was taken back" }).waitFor();
  assert.ok(!(await guest.locator(".xterm-rows").innerText()).includes("typed"), "what a guest types goes nowhere");
  await page.getByRole("table", { name: "guests" }).getByText("revoked").waitFor();

  // The same link again, and half of one.
  await guest.goto("about:blank");
  await guest.goto(url + new URL(link).pathname + new URL(link).hash);
  await guest.getByRole("alert").filter({ hasText: "the link was taken back" }).waitFor();
  await picture(guest, "guest-refused");
  await guest.goto("about:blank");
  await guest.goto(url + new URL(link).pathname);
  await guest.getByRole("alert").filter({ hasText: "this is not the whole link" }).waitFor();
  for (const b of [inside, outside]) assert.deepEqual(b.complaints.filter((c) => !/WebSocket|401|Failed to load resource/.test(c)), []);
} catch (error) {
  for (const [name, b] of Object.entries({ inside, outside })) await picture(b.page, `guest-failed-${name}`).catch(() => undefined);
  throw error;
} finally {
  await Promise.all([inside.close(), outside.close()]);
}
