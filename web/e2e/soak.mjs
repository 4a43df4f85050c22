// What an open page keeps, while hosts change and somebody looks around: prints {heap, nodes, listeners}, a sample every
// CONSOLE_EVERY seconds for CONSOLE_FOR seconds, each after the garbage was collected. Begins to count when it says "ready".
import { launch, signIn, url } from "./browser.mjs";

const whole = Number(process.env.CONSOLE_FOR);
const every = Number(process.env.CONSOLE_EVERY);
const rounds = ["Overview", "Hosts", "Operations", "Hosts", "Access", "Hosts", "Grants", "Hosts"];

const b = await launch();
try {
  const { page, context } = b;
  await signIn(page);
  const inside = await context.newCDPSession(page);
  await inside.send("HeapProfiler.enable");
  await inside.send("Performance.enable");
  const out = { heap: [], nodes: [], listeners: [] };
  const go = async (name) => {
    await page.getByRole("navigation", { name: "main" }).getByRole("link", { name: new RegExp(`^${name}`) }).click();
    await page.getByRole("heading", { level: 1 }).waitFor();
  };
  const round = async () => {
    for (const name of rounds) await go(name);
    await page.locator("[role=row][data-id]").first().waitFor();
    await page.getByRole("region", { name: "hosts" }).evaluate((e) => {
      e.scrollTop = Math.random() * e.scrollHeight;
    });
  };
  const sample = async () => {
    for (let i = 0; i < 3; i++) await inside.send("HeapProfiler.collectGarbage"); // what one leaves, the next finds
    const { usedSize } = await inside.send("Runtime.getHeapUsage");
    const { metrics } = await inside.send("Performance.getMetrics");
    const of = (name) => metrics.find((m) => m.name === name).value;
    out.heap.push(usedSize);
    out.nodes.push(of("Nodes"));
    out.listeners.push(of("JSEventListeners"));
  };
  await round();
  await page.getByText("live", { exact: true }).waitFor();
  console.error("ready");
  const began = Date.now();
  while (Date.now() - began < whole * 1000) {
    await round();
    await go("Hosts");
    const next = began + (out.heap.length + 1) * every * 1000;
    if (next > Date.now()) await page.waitForTimeout(next - Date.now());
    await sample();
  }
  const unexpected = b.complaints.filter((c) => !/40[0-9]|status of/.test(c));
  if (unexpected.length) throw new Error(unexpected.join("; "));
  console.log(JSON.stringify(out));
} finally {
  await b.close();
}
process.exit(0);
