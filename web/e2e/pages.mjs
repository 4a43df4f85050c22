// Every page of the console, from its own list of addresses: one that is added there is tested without being named here.
import { readFile } from "node:fs/promises";

const text = await readFile(new URL("../src/app/paths.ts", import.meta.url), "utf8");
const named = (name) => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Pages with an address of their own, by name. */
export const pages = Object.fromEntries([...text.matchAll(/^  (\w+): "([^"]+)"/gm)].map(([, name, path]) => [named(name), path]));

/** Pages of one thing each: what comes after their address is its id. */
export const pagesOfOne = Object.fromEntries([...text.matchAll(/^  (\w+): \(id: string\) => `([^`$]+)\$\{id\}`/gm)].map(([, name, path]) => [named(name), path]));
