// Every page with words half as long again, as other languages have them, on three widths: nothing is pushed off the page,
// and no button's or link's words are cut off.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, picture, signIn, url } from "./browser.mjs";
import { pages } from "./pages.mjs";


let b;
before(async () => {
  b = await launch();
  await signIn(b.page);
});
after(() => b?.close());

/** Makes each text of the page longer, and its letters such that a missing font or encoding shows. */
function lengthen() {
  const letters = new Map([..."aeiounycAEIOUNYC"].map((c, i) => [c, [..."áéíóúñýçÁÉÍÓÚÑÝÇ"][i]]));
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const text = n.nodeValue;
    if (!/[A-Za-z]{2}/.test(text) || n.parentElement.closest("code,pre,script,style,option,[class*=font-mono]")) continue;
    n.nodeValue = [...text].map((c) => letters.get(c) ?? c).join("") + " " + "ø".repeat(Math.ceil(text.trim().length / 2));
  }
}

for (const [name, path] of Object.entries(pages)) {
  test(name, async () => {
    const { page } = b;
    for (const width of [1440, 768, 390]) {
      await page.setViewportSize({ width, height: 900 });
      await page.goto(url + path);
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.waitForFunction(() => !document.querySelector('[role=status][aria-label="loading"]'));
      await page.evaluate(lengthen);
      const found = await page.evaluate(() => {
        const out = [];
        const root = document.documentElement;
        if (root.scrollWidth > root.clientWidth + 1) {
          const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest("[role=region],.overflow-auto,.overflow-x-auto"));
          out.push(`the page is ${root.scrollWidth - root.clientWidth} px too wide: ${wide.slice(0, 3).map((e) => `${e.tagName} ${e.className}`).join("; ")}`);
        }
        for (const e of document.querySelectorAll("button, a, label, h1, h2, summary")) {
          if (e.clientWidth <= 1 || e.closest("[role=region]") || getComputedStyle(e).overflow === "visible" || e.title) continue; // tables cut, and say the whole in a title
          if (e.scrollWidth > e.clientWidth + 1) out.push(`${e.tagName} is cut off: ${e.innerText}`);
        }
        return out;
      });
      if (found.length) await picture(page, `failed-pseudo-${name}-${width}`);
      assert.deepEqual(found, [], `${width} px wide`);
    }
    await picture(page, `pseudo-${name}-phone`);
  });
}
