// Brings a machine in by what the page says, with a person's hands in between: prints {secret, command} when the page shows
// them, and waits until the page says that all are managed.
import { launch, picture, signIn, url } from "./browser.mjs";

const b = await launch();
try {
  const { page } = b;
  await signIn(page);
  await page.getByRole("link", { name: /Enrol/ }).first().click();
  await page.getByRole("heading", { name: "Enrol a host" }).waitFor();
  await page.getByLabel("Labels that its hosts get").fill("env=prod role=web");
  await page.getByRole("button", { name: "Mint token" }).click();
  await page.getByText("Waiting for the first host").waitFor();
  await page.getByRole("button", { name: "Show" }).click();
  const secret = await page.getByLabel("token", { exact: true }).innerText();
  const command = await page.getByLabel("install command").innerText();
  console.log(JSON.stringify({ secret, command }));
  await page.getByText(/managed, .* after the token was minted/).waitFor({ timeout: 60_000 });
  await picture(page, "enrolled");
  await page.getByRole("link", { name: "web-1" }).click();
  await page.getByRole("heading", { name: "web-1" }).waitFor();
  await page.getByText("Debian GNU/Linux").waitFor();
  await picture(page, "machine");
  await page.goto(url);
  await page.getByText("Nothing does").waitFor();
  if (b.complaints.some((c) => !/40[0-9]|status of/.test(c))) throw new Error(b.complaints.join("; "));
} finally {
  await b.close();
}
