// What each role sees of every page: the links that lead there, what it says, and the acts that can be begun. The whole is
// kept in roles.json; where it changed on purpose: CONSOLE_TESTS=roles.test.mjs CONSOLE_ROLES=write.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { key, launch, picture, signIn, url } from "./browser.mjs";
import { pages as all } from "./pages.mjs";

const { overview, hosts, ...rest } = all;
const pages = { overview, hosts, host: "", ...rest };
const roles = ["owner", "admin", "operator", "member", "auditor", "stranger"];
const kept = new URL("./roles.json", import.meta.url);

async function call(method, body) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${said.message}`);
  return said;
}

const seen = {};
let expected;
before(async () => {
  expected = JSON.parse(await readFile(kept, "utf8").catch(() => "{}"));
  const { items } = await call("HostService/ListHosts", { query: "name=web-1" });
  pages.host = `/hosts/${items[0].id}`;
});
after(async () => {
  if (process.env.CONSOLE_ROLES === "write") await writeFile(kept, JSON.stringify(seen, null, 1) + "\n");
});

for (const role of roles) {
  test(role, async () => {
    const name = `sees-as-${role}`;
    await call("ServiceAccountService/CreateServiceAccount", { name });
    // Over the one workspace, as people mostly hold roles; the owner and the admin over all.
    const where = role === "owner" || role === "admin" ? {} : { workspace: "default" };
    if (role !== "stranger") await call("BindingService/CreateBinding", { serviceAccount: name, role, ...where });
    const made = await call("ApiKeyService/CreateApiKey", { name, serviceAccount: name, permissions: ["*"] });
    const b = await launch();
    try {
      const { page } = b;
      const asked = new Set(); // and not answered yet, but for watches, which never are
      page.on("request", (r) => /Service\/(?!Watch)/.test(r.url()) && asked.add(r));
      page.on("requestfinished", (r) => asked.delete(r));
      page.on("requestfailed", (r) => asked.delete(r));
      await signIn(page, made.secret);
      b.complaints.length = 0;
      seen[role] = { links: await page.getByRole("navigation", { name: "main" }).getByRole("link").allInnerTexts(), pages: {} };
      for (const [at, path] of Object.entries(pages)) {
        asked.clear();
        await page.goto(url + path);
        await page.getByRole("heading", { level: 1 }).waitFor();
        await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
        while (asked.size > 0) await page.waitForTimeout(20);
        const one = await page.evaluate(() => {
          const main = document.querySelector("main");
          const acts = [...main.querySelectorAll("button, header a, a[aria-disabled]")].filter((e) => e.innerText && e.innerText !== "Copy" && !e.closest("[role=region],table,form,dialog"));
          const words = (list) => [...new Set(list.map((e) => e.innerText.trim()))];
          return {
            closed: /yours to see/.test(main.innerText) || undefined,
            may: words(acts.filter((e) => e.getAttribute("aria-disabled") !== "true")),
            mayNot: words(acts.filter((e) => e.getAttribute("aria-disabled") === "true")),
            unexplained: words(acts.filter((e) => e.getAttribute("aria-disabled") === "true" && !e.title)),
            refused: [...main.querySelectorAll("[role=alert] .font-mono")].map((e) => e.innerText).filter((t) => /^[a-z_]+$/.test(t)),
          };
        });
        assert.deepEqual(one.unexplained, [], `${at}: what may not be done is explained`);
        delete one.unexplained;
        for (const k of Object.keys(one)) if (!one[k] || one[k].length === 0) delete one[k];
        seen[role].pages[at] = one;
      }
      if (role === "stranger" || role === "auditor" || role === "member") {
        await page.goto(url);
        await page.getByRole("heading", { level: 1 }).waitFor();
        await picture(page, `overview-${role}`);
      }
      const unexpected = b.complaints.filter((c) => !/40[0-9]|status of/.test(c));
      assert.deepEqual(unexpected, []);
      if (process.env.CONSOLE_ROLES !== "write") assert.deepEqual(seen[role], expected[role]);
    } finally {
      await b.close();
    }
  });
}
