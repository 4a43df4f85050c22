// Every page by day and by night: it opens without a complaint, passes axe, and is pictured.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { launch, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
const pages = { overview: "/", hosts: "/hosts", enrol: "/enrol", tokens: "/tokens", releases: "/releases", operations: "/operations", commands: "/commands", people: "/access/people", groups: "/access/groups", "service-accounts": "/access/service-accounts", roles: "/access/roles", bindings: "/access/bindings", questions: "/access/questions", grants: "/grants", "grant-policies": "/grants/policies", shells: "/shells", audit: "/audit", proof: "/audit/proof", sinks: "/audit/sinks", keys: "/keys", settings: "/settings", account: "/account", device: "/device", lost: "/no-such-page" };

let b;
before(async () => {
  b = await launch();
  await b.page.goto(url);
  await b.page.getByLabel("API key or one-time code").waitFor();
  await picture(b.page, "signin-light");
  await signIn(b.page);
  b.complaints.length = 0; // the first WhoAmI finds nobody signed in
});
after(() => b?.close());

for (const theme of ["light", "dark"]) {
  for (const [name, path] of Object.entries(pages)) {
    test(`${name}, ${theme}`, async () => {
      const { page } = b;
      await page.emulateMedia({ colorScheme: theme });
      await page.goto(url + path);
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.getByText("live", { exact: true }).waitFor();
      await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
      await picture(page, `${name}-${theme}`);
      const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
      assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ") + " " + (n.any[0]?.message ?? "")).slice(0, 4).join("; ")}`), []);
      assert.deepEqual(b.complaints.splice(0), []);
    });
  }
}

test("a host, and the phone", async () => {
  const { page } = b;
  await page.emulateMedia({ colorScheme: "light" });
  await page.goto(`${url}/hosts?q=web-1`);
  await page.getByRole("link", { name: "web-1", exact: true }).click();
  await page.getByRole("heading", { name: "web-1" }).waitFor();
  await page.getByText("agent_tokens.use").or(page.getByText("hosts.enrol")).first().waitFor();
  await picture(page, "host-light");
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).analyze();
  assert.deepEqual(found.violations.map((v) => v.id), []);
  await page.setViewportSize({ width: 390, height: 800 });
  await picture(page, "host-phone");
  await page.goto(`${url}/hosts`);
  await page.getByRole("link", { name: "web-1", exact: true }).waitFor();
  await picture(page, "hosts-phone");
  await page.setViewportSize({ width: 1440, height: 900 });
});
