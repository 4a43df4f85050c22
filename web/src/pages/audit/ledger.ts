// The audit log's proofs, checked here in the browser by its own hashing and signatures: the server's word is taken for none of
// it. RFC 6962 hashing, RFC 9162 proofs (2.1.3.2, 2.1.4.2), C2SP checkpoints.

export interface Checkpoint {
  origin: string;
  size: bigint;
  root: Uint8Array;
  handover?: { from: string; to: string }; // the log's key gives way to another
}

export interface Key {
  name: string;
  public: Uint8Array;
}

/** What is wrong with a log; its message is for people. */
export class Finding extends Error {}

const utf8 = new TextEncoder();

function concat(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

async function sha256(...parts: Uint8Array[]): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}

/** Of a leaf: SHA-256(0x00 ‖ data). */
export const leafHash = (leaf: string) => sha256(Uint8Array.of(0), utf8.encode(leaf));

/** Of an inner node: SHA-256(0x01 ‖ left ‖ right). */
const nodeHash = (left: Uint8Array, right: Uint8Array) => sha256(Uint8Array.of(1), left, right);

export function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}

export function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

function unbase64(text: string): Uint8Array<ArrayBuffer> {
  try {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  } catch {
    throw new Finding("it is not base64");
  }
}

const algorithm = 1; // Ed25519

async function keyHash(key: Key): Promise<Uint8Array> {
  return (await sha256(utf8.encode(`${key.name}\n`), Uint8Array.of(algorithm), key.public)).slice(0, 4);
}

/** Reads NAME+HASH+KEY, and refuses one that was not copied whole. */
export async function parseKey(text: string): Promise<Key> {
  const [name = "", hash = "", ...rest] = text.trim().split("+");
  const bytes = unbase64(rest.join("+"));
  if (!name || !/^[0-9a-f]{8}$/.test(hash) || bytes.length !== 33 || bytes[0] !== algorithm) throw new Finding("it is not a log's key, NAME+HASH+KEY");
  const key = { name, public: bytes.slice(1) };
  const sum = [...(await keyHash(key))].map((b) => b.toString(16).padStart(2, "0")).join("");
  if (sum !== hash) throw new Finding("the key was not copied whole: its hash does not fit");
  return key;
}

function parseText(text: string): Checkpoint {
  const lines = text.split("\n");
  const [origin = "", size = "", root = ""] = lines;
  const [word, from, to, ...rest] = lines.length === 5 ? lines[3]!.split(" ") : [];
  const handed = from !== undefined && to !== undefined && word === "loopback-log-key" && rest.length === 0;
  if (!origin || !/^(0|[1-9][0-9]*)$/.test(size) || lines.length !== (handed ? 5 : 4) || lines.at(-1) !== "") throw new Finding("it is not a signed checkpoint");
  const hash = unbase64(root);
  if (hash.length !== 32) throw new Finding("it is not a signed checkpoint: its root is not a hash");
  return { origin, size: BigInt(size), root: hash, handover: handed ? { from, to } : undefined };
}

/** Whether this browser can check signatures at all. */
export async function canVerify(): Promise<boolean> {
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32), "Ed25519", false, ["verify"]);
    return true;
  } catch (error) {
    return !(error instanceof DOMException && error.name === "NotSupportedError");
  }
}

/** Checks a signed note by a key and returns the checkpoint in it. Signatures by other keys are passed over. */
export async function open(note: string, key: Key): Promise<Checkpoint> {
  const cut = note.indexOf("\n\n");
  if (cut < 0) throw new Finding("it is not a signed checkpoint: there is no signature");
  const text = note.slice(0, cut + 1);
  const checkpoint = parseText(text);
  const hash = await keyHash(key);
  for (const line of note.slice(cut + 2).split("\n")) {
    const [dash, name, encoded] = line.split(" ");
    if (dash !== "—" || name !== key.name || !encoded) continue;
    const bytes = unbase64(encoded);
    if (!same(bytes.slice(0, 4), hash)) continue;
    const imported = await crypto.subtle.importKey("raw", Uint8Array.from(key.public), "Ed25519", false, ["verify"]);
    if (await crypto.subtle.verify("Ed25519", imported, bytes.slice(4), utf8.encode(text))) return checkpoint;
    throw new Finding("the checkpoint's signature does not fit what is signed");
  }
  throw new Finding(`the checkpoint is not signed by ${key.name}`);
}

const spelt = async (k: Key) => `${k.name}+${[...(await keyHash(k))].map((b) => b.toString(16).padStart(2, "0")).join("")}+${base64(Uint8Array.from([algorithm, ...k.public]))}`;

/** The key with those before it that handovers lead back to: each was signed by the key that went and by the one that came. */
export async function chain(key: Key, handovers: string[]): Promise<string[]> {
  const out = [await spelt(key)];
  for (const _ of handovers) {
    for (const note of handovers) {
      const h = parseText(note.slice(0, note.indexOf("\n\n") + 1)).handover;
      if (!h || h.to !== out[0] || out.includes(h.from)) continue;
      await open(note, await parseKey(h.from));
      await open(note, await parseKey(h.to));
      out.unshift(h.from);
    }
  }
  return out;
}

/** Opens a note by any of several keys. */
export async function openBy(note: string, keys: string[]): Promise<Checkpoint> {
  let problem: unknown = new Finding("there is no key to check it by");
  for (const k of keys) {
    try {
      return await open(note, await parseKey(k));
    } catch (error) {
      problem = error;
    }
  }
  throw problem;
}

/** Whether a proof shows that a leaf is at index in the tree. */
export async function includes(leaf: Uint8Array, index: bigint, c: Checkpoint, proof: Uint8Array[]): Promise<boolean> {
  if (index < 0n || index >= c.size) return false;
  let [f, s, r] = [index, c.size - 1n, leaf];
  for (const p of proof) {
    if (s === 0n) return false;
    if ((f & 1n) === 1n || f === s) {
      r = await nodeHash(p, r);
      while ((f & 1n) === 0n && f !== 0n) [f, s] = [f >> 1n, s >> 1n];
    } else {
      r = await nodeHash(r, p);
    }
    [f, s] = [f >> 1n, s >> 1n];
  }
  return s === 0n && same(r, c.root);
}

/** Whether a proof shows that a later tree begins with an earlier one. */
export async function grows(from: Checkpoint, to: Checkpoint, proof: Uint8Array[]): Promise<boolean> {
  if (from.size > to.size) return false;
  if (from.size === to.size) return same(from.root, to.root) && proof.length === 0;
  if (from.size === 0n) return proof.length === 0;
  const path = (from.size & (from.size - 1n)) === 0n ? [from.root, ...proof] : proof;
  if (path.length === 0) return false;
  let [f, s] = [from.size - 1n, to.size - 1n];
  while ((f & 1n) === 1n) [f, s] = [f >> 1n, s >> 1n];
  let [a, b] = [path[0]!, path[0]!];
  for (const p of path.slice(1)) {
    if (s === 0n) return false;
    if ((f & 1n) === 1n || f === s) {
      a = await nodeHash(p, a);
      b = await nodeHash(p, b);
      while ((f & 1n) === 0n && f !== 0n) [f, s] = [f >> 1n, s >> 1n];
    } else {
      b = await nodeHash(b, p);
    }
    [f, s] = [f >> 1n, s >> 1n];
  }
  return s === 0n && same(a, from.root) && same(b, to.root);
}

/** A tree over leaves as they come: the roots of its perfect subtrees, largest first. */
export class Tree {
  size = 0;
  private peaks: Uint8Array[] = [];

  async add(leaf: Uint8Array): Promise<void> {
    this.peaks.push(leaf);
    for (let n = this.size++; (n & 1) === 1; n >>= 1) {
      const right = this.peaks.pop()!;
      this.peaks.push(await nodeHash(this.peaks.pop()!, right));
    }
  }

  async root(): Promise<Uint8Array> {
    if (this.peaks.length === 0) return sha256();
    let r = this.peaks.at(-1)!;
    for (let i = this.peaks.length - 2; i >= 0; i--) r = await nodeHash(this.peaks[i]!, r);
    return r;
  }
}
