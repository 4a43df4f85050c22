import { expect, test } from "vitest";
import { grows, Finding, includes, leafHash, open, parseKey, Tree, type Checkpoint } from "./ledger";

const node = async (l: Uint8Array, r: Uint8Array) => new Uint8Array(await crypto.subtle.digest("SHA-256", Uint8Array.from([1, ...l, ...r])));

/** The root by the definition (RFC 9162, 2.1.1), slow and plain. */
async function rootOf(leaves: Uint8Array[]): Promise<Uint8Array> {
  if (leaves.length === 0) return new Uint8Array(await crypto.subtle.digest("SHA-256", new Uint8Array()));
  if (leaves.length === 1) return leaves[0]!;
  const k = split(leaves.length);
  return node(await rootOf(leaves.slice(0, k)), await rootOf(leaves.slice(k)));
}

function split(n: number): number {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

/** RFC 9162, 2.1.3.1. */
async function path(m: number, leaves: Uint8Array[]): Promise<Uint8Array[]> {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return m < k ? [...(await path(m, leaves.slice(0, k))), await rootOf(leaves.slice(k))] : [...(await path(m - k, leaves.slice(k))), await rootOf(leaves.slice(0, k))];
}

/** RFC 9162, 2.1.4.1. */
async function growth(m: number, leaves: Uint8Array[], whole: boolean): Promise<Uint8Array[]> {
  if (m === leaves.length) return whole ? [] : [await rootOf(leaves)];
  const k = split(leaves.length);
  return m <= k ? [...(await growth(m, leaves.slice(0, k), whole)), await rootOf(leaves.slice(k))] : [...(await growth(m - k, leaves.slice(k), false)), await rootOf(leaves.slice(0, k))];
}

const leaves = await Promise.all(Array.from({ length: 21 }, (_, i) => leafHash(`{"n":${i}}`)));
const state = async (n: number): Promise<Checkpoint> => ({ origin: "o", size: BigInt(n), root: await rootOf(leaves.slice(0, n)) });

test("the tree over leaves as they come is the tree of the definition", async () => {
  const t = new Tree();
  for (let n = 0; n <= leaves.length; n++) {
    expect(await t.root()).toEqual(await rootOf(leaves.slice(0, n)));
    if (n < leaves.length) await t.add(leaves[n]!);
  }
});

test("every leaf is proved in every tree, and no other leaf by its proof", async () => {
  for (let n = 1; n <= leaves.length; n++) {
    const c = await state(n);
    for (let i = 0; i < n; i++) {
      const proof = await path(i, leaves.slice(0, n));
      expect(await includes(leaves[i]!, BigInt(i), c, proof)).toBe(true);
      expect(await includes(leaves[(i + 1) % leaves.length]!, BigInt(i), c, proof)).toBe(false);
      expect(await includes(leaves[i]!, BigInt(n), c, proof)).toBe(false);
      if (proof.length > 0) expect(await includes(leaves[i]!, BigInt(i), c, proof.slice(1))).toBe(false);
    }
  }
});

test("growth is proved, and another past is not", async () => {
  const other = await leafHash("another past");
  for (let n = 1; n <= leaves.length; n++) {
    for (let m = 1; m <= n; m++) {
      const proof = await growth(m, leaves.slice(0, n), true);
      expect(await grows(await state(m), await state(n), proof)).toBe(true);
      expect(await grows({ origin: "o", size: BigInt(m), root: other }, await state(n), proof)).toBe(false);
      if (m < n) expect(await grows(await state(n), await state(m), proof)).toBe(false);
    }
  }
});

test("a checkpoint opens by its key only, and only as it was signed", async () => {
  const pair = (await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"])) as CryptoKeyPair;
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  const name = "loopback/dep_x/audit";
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", Uint8Array.from([...new TextEncoder().encode(`${name}\n`), 1, ...raw]))).slice(0, 4);
  const encode = (b: Uint8Array) => btoa(String.fromCharCode(...b));
  const text = `${name}/1\n21\n${encode((await state(21)).root)}\n`;
  const signed = new Uint8Array(await crypto.subtle.sign("Ed25519", pair.privateKey, new TextEncoder().encode(text)));
  const note = `${text}\n— ${name} ${encode(Uint8Array.from([...hash, ...signed]))}\n`;
  const key = `${name}+${[...hash].map((b) => b.toString(16).padStart(2, "0")).join("")}+${encode(Uint8Array.from([1, ...raw]))}`;
  const k = await parseKey(key);
  expect((await open(note, k)).size).toBe(21n);
  await expect(open(note.replace("\n21\n", "\n22\n"), k)).rejects.toThrow(Finding);
  await expect(open(note, { ...k, name: "loopback/dep_y/audit" })).rejects.toThrow(Finding);
  await expect(parseKey(key.replace("dep_x", "dep_z"))).rejects.toThrow(Finding);
  await expect(open(text, k)).rejects.toThrow(Finding);
});
