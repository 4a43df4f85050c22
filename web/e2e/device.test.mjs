// A command line is signed in by a code that is approved in a browser, lists itself among one's sign-ins, and is ended there.
import assert from "node:assert/strict";
import { spawn, execFile } from "node:child_process";
import { mkdtemp, rm, readFile, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { launch, picture, signIn, url } from "./browser.mjs";

const run = promisify(execFile);
const program = process.env.CONSOLE_CLI;
let b, home, env;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "console-cli-"));
  env = { HOME: home, PATH: process.env.PATH, NO_COLOR: "1", LOOPBACK_CA_FILE: process.env.NODE_EXTRA_CA_CERTS };
  b = await launch();
  await signIn(b.page);
});
after(async () => {
  await b?.close();
  await rm(home, { recursive: true, force: true });
});

/** Begins a sign-in on the command line: what it says, line by line, and how it ends. */
function login() {
  const child = spawn(program, ["login", url, "--browser"], { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const address = new Promise((found, failed) => {
    child.stderr.on("data", (d) => {
      said += d;
      const at = /open (\S+) and check that it shows the code (\S+)/.exec(said);
      if (at) found({ address: at[1], code: at[2] });
    });
    child.on("exit", (code) => failed(new Error(`it ended with ${code}: ${said}`)));
  });
  const ended = new Promise((done) => child.on("exit", (code) => done({ code, said })));
  return { address, ended, child };
}

test("approved, used, and ended from the browser", async () => {
  const { page } = b;
  const going = login();
  const { address, code } = await going.address;
  await page.goto(address);
  await page.getByRole("heading", { name: "Sign in a device" }).waitFor();
  await page.getByText(code, { exact: true }).waitFor();
  await page.getByText(/loopback .* on /).waitFor();
  await picture(page, "device");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.getByRole("status").filter({ hasText: "Approved" }).waitFor();
  assert.equal((await going.ended).code, 0);

  const me = JSON.parse((await run(program, ["whoami", "-o", "json"], { env })).stdout);
  assert.match(JSON.stringify(me), /sgn_/);
  const config = join(home, ".config", "loopback", "config.yaml");
  assert.equal((await stat(config)).mode & 0o777, 0o600);
  assert.match(await readFile(config, "utf8"), /lbs_/);

  await page.goto(`${url}/account`);
  await page.getByRole("heading", { level: 1 }).waitFor();
  const row = page.getByRole("row").filter({ hasText: "loopback " });
  await row.waitFor();
  await picture(page, "account");
  await row.getByRole("button").click();
  await row.waitFor({ state: "detached" });
  const refused = await run(program, ["whoami"], { env }).catch((e) => e);
  assert.equal(refused.code, 3, `${refused.stdout}${refused.stderr}`);
});

test("denied: the command line gets nothing, and says so", async () => {
  const { page } = b;
  const going = login();
  const { address } = await going.address;
  await page.goto(address);
  await page.getByRole("button", { name: "Deny" }).click();
  await page.getByRole("status").filter({ hasText: "Denied" }).waitFor();
  const { code, said } = await going.ended;
  assert.notEqual(code, 0);
  assert.match(said, /denied/);
});

test("a code that is nobody's is refused in the server's words", async () => {
  const { page } = b;
  await page.goto(`${url}/device`);
  await page.getByLabel("Code").fill("BCDF-GHJK");
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("alert").waitFor();
});
