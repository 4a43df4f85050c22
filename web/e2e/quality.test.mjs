// What Lighthouse looks at, asked by script on every page: its rules of accessibility (axe with its best practices), and its best
// practices: what the browser itself reports, headers, and how the page is put together.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { launch, signIn, url } from "./browser.mjs";
import { pages } from "./pages.mjs";

const AxeBuilder = axe.default ?? axe;

let b;
const issues = [];
before(async () => {
  b = await launch();
  const inside = await b.context.newCDPSession(b.page);
  await inside.send("Audits.enable");
  await inside.send("Log.enable");
  inside.on("Audits.issueAdded", ({ issue }) => issues.push(JSON.stringify(issue)));
  inside.on("Log.entryAdded", ({ entry }) => ["deprecation", "security", "violation", "intervention"].includes(entry.source) && issues.push(`${entry.source}: ${entry.text}`));
  await signIn(b.page);
  b.complaints.length = 0; // the first WhoAmI finds nobody signed in
  issues.length = 0;
});
after(() => b?.close());

test("headers", async () => {
  const page = await fetch(url);
  const of = (name) => page.headers.get(name) ?? "";
  const policy = of("content-security-policy");
  for (const part of ["default-src 'none'", "script-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"]) assert.ok(policy.includes(part), `the policy has ${part}: ${policy}`);
  assert.ok(!/script-src[^;]*'unsafe/.test(policy), policy);
  assert.equal(of("x-content-type-options"), "nosniff");
  assert.match(of("referrer-policy"), /no-referrer|same-origin/);
  const text = await page.text();
  assert.match(text, /^<!doctype html>/i);
  const script = /src="(\/assets\/[^"]+\.js)"/.exec(text)[1];
  const asset = await fetch(url + script, { headers: { "Accept-Encoding": "gzip, br" } });
  assert.match(asset.headers.get("content-encoding") ?? "", /gzip|br/, "scripts travel packed");
  assert.match(asset.headers.get("cache-control") ?? "", /immutable/);
});

const titles = new Map();

for (const [name, path] of Object.entries(pages)) {
  test(name, async () => {
    const { page } = b;
    await page.goto(url + path);
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
    const found = await page.evaluate(() => {
      const out = [];
      const wrong = (what) => out.push(what);
      if (document.compatMode !== "CSS1Compat") wrong("quirks mode");
      if (document.characterSet !== "UTF-8") wrong(`charset ${document.characterSet}`);
      if (!document.documentElement.lang) wrong("no language");
      const viewport = document.querySelector("meta[name=viewport]")?.content ?? "";
      if (!/width=device-width/.test(viewport) || /user-scalable=no|maximum-scale/.test(viewport)) wrong(`viewport ${viewport}`);
      if (document.querySelectorAll("h1").length !== 1) wrong("not one h1");
      if (document.querySelectorAll("main").length !== 1) wrong("not one main");
      if (document.querySelectorAll("[id]").length !== new Set([...document.querySelectorAll("[id]")].map((e) => e.id)).size) wrong("an id twice");
      if (document.querySelector('[tabindex]:not([tabindex="0"]):not([tabindex="-1"])')) wrong("an order of tabs of its own");
      for (const s of document.querySelectorAll("script")) if (!s.src) wrong("an inline script");
      for (const e of document.querySelectorAll("*")) for (const a of e.attributes) if (/^on/.test(a.name)) wrong(`an inline handler ${a.name}`);
      for (const i of document.images) {
        if (!i.complete || i.naturalWidth === 0) wrong(`an image that is broken: ${i.src}`);
        if (!i.hasAttribute("alt")) wrong(`an image without words: ${i.src}`);
      }
      for (const a of document.links) {
        if (a.target === "_blank" && !/noopener/.test(a.rel)) wrong(`a window of its own that can reach this one: ${a.href}`);
        if (/^javascript:/.test(a.href)) wrong(`a link that is a script: ${a.href}`);
        if (!(a.innerText || a.getAttribute("aria-label") || a.title)) wrong(`a link without words: ${a.href}`);
      }
      for (const i of document.querySelectorAll("input, textarea")) {
        const paste = new ClipboardEvent("paste", { bubbles: true, cancelable: true });
        i.dispatchEvent(paste);
        if (paste.defaultPrevented) wrong("a field that one cannot paste into");
      }
      for (const e of document.querySelectorAll("main *")) {
        if (e.children.length === 0 && e.textContent.trim() && e.getClientRects().length && parseFloat(getComputedStyle(e).fontSize) < 10) wrong(`letters too small to read: ${e.textContent.slice(0, 30)}`);
      }
      return [...new Set(out)];
    });
    assert.deepEqual(found, []);
    const title = await page.title();
    assert.match(title, / · Loopback$/);
    assert.equal(titles.get(title), undefined, `${title} is the title of another page`);
    titles.set(title, name);
    const rules = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
    assert.deepEqual(rules.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).slice(0, 4).join("; ")}`), []);
    assert.deepEqual(b.complaints.splice(0), []);
    assert.deepEqual(issues.splice(0), [], "the browser itself reports nothing");
  });
}
