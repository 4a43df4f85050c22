// The audit log proves what it says in this browser, and goes where it is sent.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, test } from "node:test";
import { launch, picture, signIn, url } from "./browser.mjs";

let b, page;
before(async () => {
  b = await launch();
  page = b.page;
  await signIn(page);
});
after(() => b?.close());
afterEach(async (t) => {
  if (t.error) await picture(page, `failed-evidence-${t.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`);
});

const dialog = () => page.getByRole("dialog");

test("an entry is proved, with what the proof rests on; another entry in its place is not", async () => {
  await page.goto(`${url}/audit`);
  const rows = page.getByRole("row").filter({ has: page.getByRole("button") });
  await rows.nth(3).getByRole("button").click();
  await dialog().getByRole("button", { name: "Prove it" }).click();
  await dialog().getByText(/The entry is leaf [0-9,]+ of [0-9,]+, as it was signed/).waitFor();
  await dialog().getByText("What was signed").click();
  await dialog().getByLabel("checkpoint").waitFor();
  await picture(page, "entry-proved");
  await dialog().getByRole("button", { name: "Close" }).click();
  await page.route(/AuditService\/ProveEntry/, async (route) => {
    const answer = await route.fetch();
    const proof = await answer.json();
    proof.leaf = proof.leaf.replace('"done"', '"refused"').replace('"action":"', '"action":"x');
    await route.fulfill({ response: answer, json: proof });
  });
  await rows.nth(3).getByRole("button").click();
  await dialog().getByRole("button", { name: "Prove it" }).click();
  await dialog().getByText("the entry is not the one that the checkpoint was signed over").waitFor();
  await picture(page, "entry-altered");
  await page.unrouteAll();
});

test("the log is verified here, entry by entry, and saved; another past does not pass", async () => {
  await page.goto(`${url}/audit/proof`);
  await page.getByRole("button", { name: "Verify" }).click();
  await page.getByText(/is signed by the log's key/).waitFor();
  await page.getByText("This browser remembered nothing").waitFor();
  await page.getByRole("button", { name: "Read every entry" }).click();
  await page.getByText(/Every entry was read and hashed/).waitFor();
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "Save the log to a file" }).click();
  const text = await readFile(await (await saved).path(), "utf8");
  assert.match(text, /^\{"began":0,"checkpoint":"loopback\//);
  await picture(page, "proof-verified");
  await page.getByRole("button", { name: "Verify" }).click();
  await page.getByText(/It only grew: its first [0-9,]+ entries/).waitFor();
  await page.evaluate(() => {
    const kept = JSON.parse(localStorage.getItem("loopback.audit"));
    localStorage.setItem("loopback.audit", JSON.stringify({ ...kept, key: kept.key.replace("dep_", "dep_0") }));
  });
  await page.getByRole("button", { name: "Verify" }).click();
  await page.getByText("signed by another key than the one that this browser remembers").waitFor();
  await picture(page, "proof-refused");
});

test("a sink is made, seen to deliver, paused, sent the past again and removed; one that cannot be reached is told of", async () => {
  await page.goto(`${url}/audit/sinks`);
  await page.getByRole("button", { name: "New sink" }).click();
  await dialog().getByRole("radio", { name: "file" }).check();
  await dialog().getByLabel("Name", { exact: true }).fill("archive");
  await dialog().getByPlaceholder("audit.jsonl").fill("audit.jsonl");
  await dialog().getByLabel("Entries from").fill("24h");
  await dialog().getByText("The same on the command line").click();
  await dialog().getByText("loopback sink create archive --file audit.jsonl --since 24h").waitFor();
  await picture(page, "sink-form");
  await dialog().getByRole("button", { name: "Make sink" }).click();
  const row = page.getByRole("row").filter({ hasText: "archive" });
  await row.getByText("ok").waitFor();
  await row.getByRole("button").click();
  await dialog().getByText("0 entries").waitFor();
  await picture(page, "sink");
  await dialog().getByRole("button", { name: "Pause…" }).click();
  await dialog().getByRole("button", { name: "Pause", exact: true }).click();
  await row.getByText("paused").waitFor();
  await dialog().getByRole("button", { name: "Resume…" }).click();
  await dialog().getByRole("button", { name: "Resume", exact: true }).click();
  await row.getByText("ok").waitFor();
  await dialog().getByRole("button", { name: "Send again…" }).click();
  await dialog().getByRole("button", { name: "Send again", exact: true }).click();
  await dialog().getByRole("button", { name: "Remove…" }).waitFor();
  await dialog().getByRole("button", { name: "Remove…" }).click();
  await dialog().getByRole("button", { name: "Remove", exact: true }).click();
  await row.waitFor({ state: "detached" });

  await page.getByRole("button", { name: "New sink" }).click();
  await dialog().getByLabel("Name", { exact: true }).fill("siem");
  await dialog().getByLabel("Address").fill("https://127.0.0.1:1/in");
  await dialog().getByRole("button", { name: "Make sink" }).click();
  await dialog().getByText("Keep this secret").waitFor();
  await dialog().getByRole("button", { name: "I have kept it" }).click();
  await page.getByRole("row").filter({ hasText: "siem" }).getByText("failing").waitFor({ timeout: 30_000 });
  await page.getByRole("button", { name: /want.* you/ }).click();
  await dialog().getByText("siem does not take the audit log").waitFor();
  await picture(page, "attention-sink");
  await dialog().getByRole("button", { name: "I have seen these" }).click();
  await page.getByRole("row").filter({ hasText: "siem" }).getByRole("button").click();
  await dialog().getByRole("button", { name: "Remove…" }).click();
  await dialog().getByRole("button", { name: "Remove", exact: true }).click();
  await page.getByRole("row").filter({ hasText: "siem" }).waitFor({ state: "detached" });
});
