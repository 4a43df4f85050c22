// Lists with no row, five and ten thousand, by day and night, wide and narrow: pictured, and none pushes its page too wide. The
// rows are the control plane's own, told over and over in its place: bench/console.go has ten thousand real hosts.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "@axe-core/playwright";
import { everything, key, launch, picture, signIn, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;

const lists = {
  hosts: { path: "/hosts", method: "HostService/ListHosts" },
  tokens: { path: "/tokens", method: "TokenService/ListTokens" },
  operations: { path: "/operations", method: "OperationService/ListOperations" },
  audit: { path: "/audit", method: "AuditService/ListEntries" },
  grants: { path: "/grants", method: "GrantService/ListGrants" },
  sinks: { path: "/audit/sinks", method: "SinkService/ListSinks" },
  commands: { path: "/commands", method: "ExecService/ListExecs" },
  saved: { path: "/commands/saved?show=all", method: "CommandService/ListCommands" },
};

async function call(method, body, as = key, headers = {}) {
  const answer = await fetch(`${url}/api/loopback.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${as}`, ...headers }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.ok(answer.ok, `${method}: ${JSON.stringify(said)}`);
  return said;
}

const tag = `rows-${Date.now().toString(36)}`;
const long = "a-name-that-is-as-long-as-somebody-may-make-it-for-reasons-of-their-own-0123456789";

/** Sinks of each kind, one whose receiver is not there; and grants of each state. */
async function seed() {
  for (const [i, name] of ["siem", "archive", long.slice(0, 50)].entries()) {
    const { sink } = await call("SinkService/CreateSink", { name: `${tag}-${name}`.slice(0, 62), kind: "webhook", target: `https://localhost:${9 + i}/audit` });
    if (i === 1) await call("SinkService/UpdateSink", { sink: sink.id, paused: true });
  }
  await call("HostService/QuarantineHost", { host: "cache-9", reason: "rows" });
  await call("HostService/ReleaseHost", { host: "cache-9" });
  await call("ExecService/StartExec", { hosts: ["web-1", "worker-1"], command: { arguments: ["journalctl", "--unit", "nginx", "--since", "-1h", "--grep", "upstream timed out", "--no-pager"] } }, process.env.CONSOLE_RUNNER, { "Loopback-Reason": "disk" });
  for (const name of ["restart", long.slice(0, 50)]) {
    const one = await call("CommandService/SaveCommand", { workspace: "default", name: `${tag}-${name}`.slice(0, 62), description: "restart a service", command: { arguments: ["systemctl", "restart", "{unit}"] }, parameters: [{ name: "unit", pattern: "[a-z]+" }] });
    if (name === "restart") await call("CommandService/ApproveCommand", { command: one.id }, process.env.CONSOLE_RUNNER);
  }
  await call("RoleService/CreateRole", { name: tag, permissions: ["hosts.read", "hosts.label"] }); // one policy offers a role at a place
  await call("GrantPolicyService/CreateGrantPolicy", { name: tag, role: tag, approvals: 1 });
  const account = await call("ServiceAccountService/CreateServiceAccount", { name: `${tag}-${long}`.slice(0, 63) });
  await call("BindingService/CreateBinding", { serviceAccount: account.id, role: "member" });
  const { secret } = await call("ApiKeyService/CreateApiKey", { name: tag, serviceAccount: account.id, permissions: ["*"] });
  const one = await call("GrantService/RequestGrant", { role: tag, reason: "replication is stuck on the third shard, and the runbook says to look at the machine itself", ticket: "OPS-7" }, secret);
  await call("GrantService/DenyGrant", { grant: one.id, comment: "use the runbook" });
  await call("GrantService/RequestGrant", { role: tag, reason: "disk" }, secret);
}

/** n things made of the real ones, each with an id and a name of its own. */
function multiplied(items, n) {
  return (i) => {
    const item = structuredClone(items[i % items.length]);
    item.id = `${item.id.slice(0, 4)}${String(i).padStart(26, "0")}`;
    if (item.name) item.name = i % 11 === 3 ? `${long}-${i}` : i % 13 === 5 ? `שרת-${i}-مرحبا 🦀` : `${item.name}-${i}`;
    return i < n ? item : undefined;
  };
}

let b, real;
before(async () => {
  await seed();
  real = Object.fromEntries(await Promise.all(Object.entries(lists).map(async ([name, l]) => [name, await call(l.method, { page: { size: 200 } })])));
  b = await launch();
  await signIn(b.page);
});
after(() => b?.close());

for (const [name, l] of Object.entries(lists)) {
  for (const n of [0, 5, 10_000]) {
    test(`${n} ${name}`, async () => {
      const { page } = b;
      const { items = [] } = real[name];
      assert.ok(n === 0 || items.length > 0, `there is a real one of ${name}`);
      const item = multiplied(items, n);
      await page.route(`**/loopback.v1.${l.method}`, async (route) => {
        const { page: asked } = route.request().postDataJSON();
        const from = Number(asked?.token ?? 0);
        const to = Math.min(n, from + (asked?.size ?? 100));
        await route.fulfill({ json: { items: Array.from({ length: to - from }, (_, i) => item(from + i)), nextPageToken: to < n ? String(to) : "", total: String(n) } });
      });
      for (const theme of ["light", "dark"]) {
        for (const [shape, size] of Object.entries({ wide: { width: 1440, height: 900 }, phone: { width: 390, height: 800 } })) {
          if (!everything && (theme === "dark") !== (shape === "phone")) continue;
          await page.emulateMedia({ colorScheme: theme });
          await page.setViewportSize(size);
          await page.goto(url + l.path);
          await page.getByRole("heading", { level: 1 }).waitFor();
          await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
          if (n === 0) await page.locator("p.font-medium").first().waitFor();
          else await page.locator("[role=row][data-id]").nth(Math.min(n, 5) - 1).waitFor();
          await picture(page, `rows-${name}-${n}-${theme}-${shape}`);
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
          assert.ok(wide <= 1, `${theme}, ${shape}: the page is ${wide} px too wide`);
          if (n === 10_000) assert.ok((await page.locator("[role=row][data-id]").count()) < 80, "only what fits is drawn");
          if (n !== 5) continue;
          const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa", "best-practice"]).analyze();
          assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((x) => x.target.join(" ")).slice(0, 4).join("; ")}`), [], `${theme}, ${shape}`);
        }
      }
      if (n === 10_000) {
        // To the end of what is there, page by page, and no row is missing on the way.
        const region = page.locator("[role=region]").first();
        for (let i = 0; i < 400; i++) {
          const at = await region.evaluate((e) => {
            e.scrollTop = e.scrollHeight;
            return Math.max(...[...e.querySelectorAll("[aria-rowindex]")].map((r) => Number(r.getAttribute("aria-rowindex"))));
          });
          if (at === n + 1) break;
          await page.waitForTimeout(20);
        }
        await page.locator(`[aria-rowindex="${n + 1}"]`).waitFor();
      }
      await page.unrouteAll({ behavior: "ignoreErrors" });
    });
  }
}
