// A browser for tests: Debian's Chromium, with nothing that would call home.
import { mkdtemp, rm } from "node:fs/promises";
import assert from "node:assert/strict";
import { createHash, X509Certificate } from "node:crypto";
import { tmpdir } from "node:os";
import { connect } from "node:tls";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const url = process.env.CONSOLE_URL;
export const key = process.env.CONSOLE_KEY;
export const reader = process.env.CONSOLE_READER;
/** Whether pictures are asked for: then every page is pictured in every theme and shape, else each in some. */
export const everything = process.env.CONSOLE_PICTURES === "all";
export const hosts = Number(process.env.CONSOLE_HOSTS ?? 40);

const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

// What pages showed when a test failed: a locator that was waited for in vain tells little by itself. Where this serves a program that is
// no test, the runner is left alone: it would write its own report into what the program says.
const open = new Set();
async function tell(t) {
  if (t.passed !== false) return;
  for (const page of [...open].flatMap((c) => c.pages())) {
    const shown = await page.locator("body").ariaSnapshot({ timeout: 2000 }).catch((e) => `nothing that can be read: ${e.message}`);
    console.log(`${t.name}: ${page.url()} showed\n${shown.slice(0, 6000)}`);
  }
}
if (process.env.NODE_TEST_CONTEXT) (await import("node:test")).afterEach(tell);

/** others: origins beside the control plane's own that a page may be of here. */
export async function launch({ others = [], ...options } = {}) {
  const profile = await mkdtemp(join(tmpdir(), "console-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    ignoreHTTPSErrors: true,
    viewport: { width: 1440, height: 900 },
    locale: "en-GB",
    reducedMotion: "reduce", // what is looked at stands still: colours half-way from one theme to the other are nobody's
    args: flags,
    permissions: ["clipboard-read", "clipboard-write"],
    ...options,
  });
  open.add(context);
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(15_000);
  // What the page says it cannot do, and what the policy forbids, is a failure of ours. Networks of other tests that come
  // and go on this machine are not: Chromium breaks off what it was loading, and the page asks again.
  const complaints = [];
  page.on("console", (m) => m.type() === "error" && !m.text().includes("ERR_NETWORK_CHANGED") && complaints.push(m.text()));
  page.on("pageerror", (e) => complaints.push(String(e)));
  // Whatever a test is about: no page asks anybody but the control plane, and none is held back by the policy of contents. close says so.
  const strays = [];
  const known = new Set([url, ...others].map((u) => new URL(u).host));
  context.on("request", (r) => /^(https?|wss?):/.test(r.url()) && !known.has(new URL(r.url()).host) && strays.push(`asks ${r.url()}`));
  page.on("websocket", (s) => !known.has(new URL(s.url()).host) && strays.push(`connects to ${s.url()}`));
  context.on("console", (m) => /Content Security Policy|^csp: /.test(m.text()) && strays.push(m.text()));
  await context.addInitScript(() => document.addEventListener("securitypolicyviolation", (e) => console.warn(`csp: ${e.violatedDirective} held back ${e.blockedURI || "inline"} at ${e.sourceFile}:${e.lineNumber}`)));
  return {
    page,
    context,
    complaints,
    close: async () => {
      open.delete(context);
      await context.close();
      await rm(profile, { recursive: true, force: true });
      assert.deepEqual(strays, [], "requests to others, and what the policy of contents held back");
    },
  };
}

/** A browser that trusts the control plane's certificate, as WebAuthn demands, with an authenticator that verifies its user. */
export async function launchWithPasskeys(at = url) {
  const { hostname, port } = new URL(at);
  const raw = await new Promise((found, failed) => {
    const socket = connect({ host: hostname, port, servername: hostname, rejectUnauthorized: false }, () => {
      found(socket.getPeerCertificate().raw);
      socket.end();
    });
    socket.on("error", failed);
  });
  const pin = createHash("sha256").update(new X509Certificate(raw).publicKey.export({ type: "spki", format: "der" })).digest("base64");
  const b = await launch({ others: [at], ignoreHTTPSErrors: false, args: [...flags, `--ignore-certificate-errors-spki-list=${pin}`] });
  const cdp = await b.context.newCDPSession(b.page);
  await cdp.send("WebAuthn.enable");
  const add = async () =>
    (await cdp.send("WebAuthn.addVirtualAuthenticator", { options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true } })).authenticatorId;
  return { ...b, cdp, add, drop: (authenticatorId) => cdp.send("WebAuthn.removeVirtualAuthenticator", { authenticatorId }) };
}

export async function signIn(page, as = key) {
  await page.goto(url);
  await page.getByLabel("API key or one-time code").fill(as);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("navigation", { name: "main" }).waitFor();
}

export function picture(page, name) {
  return page.screenshot({ path: join(process.env.CONSOLE_OUT, `${name}.png`) });
}
