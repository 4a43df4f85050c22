// How fast the list of hosts is, seen from the page: prints one JSON object of milliseconds. Everything is measured in the
// page itself, between an act and the frame that shows what came of it.
import { hosts, launch, signIn, url } from "./browser.mjs";

const b = await launch();
try {
  const { page } = b;
  await signIn(page);
  const out = { cold: [], first: [], filter: [], frames: [], heap: [] };

  // First rows of a page that is loaded anew: its scripts, who is signed in, the list.
  for (let i = 0; i < 9; i++) {
    await page.goto(`${url}/hosts`, { waitUntil: "commit" });
    out.cold.push(
      await page.evaluate(async () => {
        while (!document.querySelector("[role=row][data-id]")) await new Promise(requestAnimationFrame);
        return performance.now(); // since the navigation began
      }),
    );
  }

  // First rows from the click on, on a page that has seen the list before.
  for (let i = 0; i < 9; i++) {
    await page.getByRole("navigation").getByRole("link", { name: "Settings" }).click();
    await page.getByRole("heading", { name: "Settings" }).waitFor();
    out.first.push(
      await page.evaluate(async () => {
        const began = performance.now();
        [...document.querySelectorAll("nav a")].find((a) => a.textContent === "Hosts").click();
        while (!document.querySelector("[role=row][data-id]")) await new Promise(requestAnimationFrame);
        return performance.now() - began;
      }),
    );
  }

  // A filter, from the last key on until the list shows only what it holds for.
  for (let i = 0; i < 25; i++) {
    const wanted = `host-${(i * 397) % hosts}`;
    out.filter.push(
      await page.evaluate(async (wanted) => {
        const box = document.querySelector('[aria-label="query"]');
        const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
        const began = performance.now();
        set.call(box, `name=${wanted}`);
        box.dispatchEvent(new Event("input", { bubbles: true }));
        for (;;) {
          const rows = [...document.querySelectorAll("[role=row][data-id] a")];
          if (rows.length === 1 && rows[0].textContent === wanted) break;
          await new Promise(requestAnimationFrame);
        }
        return performance.now() - began;
      }, wanted),
    );
  }
  await page.getByLabel("query").fill("");
  await page.locator('[role=row][data-id]').nth(5).waitFor();

  // While others change hosts, told by a line on standard input: the time between frames, and what the page keeps.
  console.error("ready");
  await new Promise((go) => process.stdin.once("data", go));
  const heap = () => page.evaluate(async () => performance.memory?.usedJSHeapSize ?? 0);
  out.heap.push(await heap());
  out.frames = await page.evaluate(async () => {
    const gaps = [];
    const region = document.querySelector('[role=region][aria-label="hosts"]');
    let last = performance.now();
    const until = last + 10_000;
    while (last < until) {
      const now = await new Promise(requestAnimationFrame);
      gaps.push(now - last);
      last = now;
      region.scrollTop += 40;
      if (region.scrollTop + region.clientHeight >= region.scrollHeight) region.scrollTop = 0;
    }
    return gaps.slice(1);
  });
  out.heap.push(await heap());
  console.log(JSON.stringify(out));
} finally {
  await b.close();
}
process.exit(0);
