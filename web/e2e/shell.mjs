// A shell on a real machine, in a browser: asked for with a reason, typed into, made larger, cut off and taken up again, flooded and
// interrupted, watched from a second window, ended, and its recording played and searched. Prints what it measured as JSON.
import assert from "node:assert/strict";
import axe from "@axe-core/playwright";
import { launchWithPasskeys, picture, url } from "./browser.mjs";

const AxeBuilder = axe.default ?? axe;
const host = process.env.CONSOLE_HOST;
const measured = {};

/** The text on a screen: what a screen reader is told of it. */
const seen = (page) => page.locator(".xterm-rows").innerText();
async function shows(page, text) {
  await page.waitForFunction((wanted) => document.querySelector(".xterm-rows")?.innerText.replaceAll(" ", " ").includes(wanted), text, { timeout: 20_000 });
}
const type = async (page, text) => {
  await page.locator(".xterm-helper-textarea").focus();
  await page.keyboard.type(text);
};

/** By day and night, wide and on a phone: pictured, nothing pushed off the page, and nothing that axe finds. */
async function looked(page, name) {
  const before = page.viewportSize();
  for (const theme of ["light", "dark"]) {
    for (const [shape, size] of Object.entries({ wide: { width: 1440, height: 900 }, phone: { width: 390, height: 800 } })) {
      await page.emulateMedia({ colorScheme: theme });
      await page.setViewportSize(size);
      await page.waitForTimeout(300); // for the observer of sizes
      await picture(page, `${name}-${theme}-${shape}`);
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 1, `${name}, ${theme}, ${shape}: the page is too wide`);
      const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag22aa"]).exclude(".xterm-rows").analyze();
      assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`), [], `${name}, ${theme}, ${shape}`);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(before);
}

const b = await launchWithPasskeys();
try {
  const { page, context } = b;
  await b.add();
  await page.goto(process.env.CONSOLE_INVITATION);
  await page.getByLabel("Name of the passkey").fill("laptop");
  await page.getByRole("button", { name: "Make passkey" }).click();
  await page.getByRole("navigation", { name: "main" }).waitFor();
  await page.getByRole("link", { name: "Shells", exact: true }).click();
  await page.getByText("Nobody has opened a shell").waitFor();
  await picture(page, "shells-none");
  await page.getByRole("button", { name: "Open a shell" }).click();
  const form = page.getByRole("dialog");
  await form.getByLabel("Host").fill(host);
  await form.getByLabel("Reason").fill("to see that a browser can");
  await form.getByLabel("Ticket").fill("OPS-7");
  await picture(page, "shell-form");
  await form.getByRole("button", { name: "Open it" }).click();
  // The passkey was shown a moment ago; on a slow machine it is asked for again.
  const typing = page.getByText("recorded; others may watch");
  const asked = page.getByRole("dialog", { name: "Show that it is you" });
  await typing.or(asked).first().waitFor();
  if (await asked.isVisible()) await asked.getByRole("button", { name: "Show passkey" }).click();
  await typing.waitFor();

  await type(page, "echo hello-$((40+2)); tty\r");
  await shows(page, "hello-42");
  await shows(page, "/dev/pts/");
  await looked(page, "shell");

  // The size is the browser's.
  await page.setViewportSize({ width: 1000, height: 700 });
  await page.getByRole("button", { name: "Fill the window" }).click();
  await page.waitForTimeout(300); // for the observer of sizes
  await type(page, "clear; stty size\r");
  const rows = await page.evaluate(() => document.querySelectorAll(".xterm-rows > div").length);
  await shows(page, `${rows} `);
  await page.getByRole("button", { name: "Smaller" }).click();

  // The network goes and comes: what was typed meanwhile is typed once.
  const before = Date.now();
  await context.setOffline(true);
  await page.evaluate(() => globalThis.__cut?.());
  await type(page, "echo typed-while-$((1+1))-off\r");
  await page.getByText("the connection is lost").waitFor({ timeout: 30_000 });
  await picture(page, "shell-cut");
  await context.setOffline(false);
  await shows(page, "typed-while-2-off");
  await page.getByText("recorded; others may watch").waitFor();
  measured.backAfterOffline = Date.now() - before;
  const text = await seen(page);
  assert.equal(text.split("typed-while-2-off").length - 1, 1, "it was typed once");

  // A flood, and Ctrl-C in it.
  await type(page, "clear; yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r");
  await shows(page, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
  await page.waitForTimeout(1500);
  await page.locator(".xterm-helper-textarea").focus();
  const interrupted = Date.now();
  await page.keyboard.press("Control+c");
  await shows(page, "^C");
  measured.interrupt = Date.now() - interrupted;
  await type(page, "clear; echo after-the-$((3*3))-flood\r");
  await shows(page, "after-the-9-flood");

  // What the screen takes, and for how long it stands still meanwhile.
  await page.evaluate(() => {
    globalThis.__frames = { worst: 0, last: performance.now(), on: true };
    const turn = (now) => {
      const f = globalThis.__frames;
      f.worst = Math.max(f.worst, now - f.last);
      f.last = now;
      if (f.on) requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
  });
  const flooded = Date.now();
  await type(page, "clear; base64 -w 76 /dev/zero | head -c 10000000; echo; echo all-of-$((2*5))-MB\r");
  await shows(page, "all-of-10-MB");
  measured.megabytesPerSecond = +(10_000 / (Date.now() - flooded)).toFixed(1);
  measured.worstFrame = await page.evaluate(() => {
    globalThis.__frames.on = false;
    return Math.round(globalThis.__frames.worst);
  });

  // A second window only watches.
  const second = await context.newPage();
  await second.goto(`${page.url()}?as=watch`);
  await second.getByText("you watch; what you type goes nowhere").waitFor();
  await type(page, "echo seen-by-$((1+1))\r");
  await shows(second, "seen-by-2");
  await picture(second, "shell-watched");
  await second.close();

  await type(page, "exit 3\r");
  await page.getByRole("button", { name: "Play" }).waitFor();
  await page.getByText(/with status 3/).waitFor();
  await page.getByLabel("search what was seen").fill("hello-42");
  await page.getByRole("list", { name: "found" }).getByRole("button").first().click();
  await shows(page, "hello-42");
  await looked(page, "shell-recording");
  await page.getByLabel("speed").selectOption("16");
  await page.getByRole("button", { name: "Play" }).click();
  await page.getByRole("button", { name: "Play" }).waitFor({ timeout: 60_000 });
  await page.goto(`${url}/shells`);
  await page.getByRole("link", { name: new RegExp(host) }).waitFor();
  await page.getByText("agreed").waitFor();
  await picture(page, "shells");
  const complaints = b.complaints.filter((c) => !/ERR_INTERNET_DISCONNECTED|WebSocket|40[0-9]|Failed to load resource/.test(c));
  assert.deepEqual(complaints, []);
  console.log(JSON.stringify(measured));
} catch (error) {
  await picture(b.page, "shell-failed").catch(() => undefined);
  throw error;
} finally {
  await b.close();
}
