// What the audit log proves, step by step, with what each step rests on. This browser remembers the last state that it
// verified: another past that is signed later does not fit it.
import { api } from "../../api/client";
import type { AuditCheckpoint } from "../../api/gen/loopback/v1/audit_pb";
import { base64, canVerify, chain, Finding, grows, includes, leafHash, open, openBy, parseKey, same, Tree, type Checkpoint } from "./ledger";

export interface Step {
  ok: boolean; // false: it is not what it should be
  what: string;
  about?: string;
}

interface Remembered {
  key: string;
  checkpoint: string;
  at: number;
}

const where = "loopback.audit";

export function remembered(): Remembered | undefined {
  try {
    const r = JSON.parse(localStorage.getItem(where) ?? "") as Partial<Remembered>;
    return typeof r.key === "string" && typeof r.checkpoint === "string" && typeof r.at === "number" ? { key: r.key, checkpoint: r.checkpoint, at: r.at } : undefined;
  } catch {
    return undefined;
  }
}

export interface Log {
  said: AuditCheckpoint;
  checkpoint: Checkpoint;
  keys: string[]; // that signed it one after the other, the last one now
}

/** Runs steps until one is not what it should be; what goes wrong otherwise is thrown. */
async function steps(out: Step[], run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof Finding)) throw error;
    out.push({ ok: false, what: error.message, about: "keep what you have: docs/guides/audit.md says what this means" });
  }
}

async function signed(said: AuditCheckpoint, trusted: string, out: Step[]): Promise<Log> {
  const known = remembered();
  const key = await parseKey(said.key);
  if (!(await canVerify())) throw new Finding("this browser cannot check Ed25519 signatures; use another, or loopback audit verify");
  const keys = await chain(key, said.handovers);
  if (trusted.trim() && !keys.includes(trusted.trim())) throw new Finding("the log is signed by another key than the one that you gave");
  if (known && !keys.includes(known.key)) throw new Finding("the log is signed by another key than the one that this browser remembers");
  const checkpoint = await open(said.checkpoint, key);
  out.push({ ok: true, what: `The checkpoint over ${checkpoint.size.toLocaleString()} entries is signed by the log's key.`, about: trusted.trim() ? "It is the key that you gave, or one that it handed over to." : known ? "It is the key that this browser saw before, or one that it handed over to." : "The key came with the log: compare it with one that came another way." });
  return { said, checkpoint, keys };
}

/** Holds a log against a checkpoint from before. */
async function agree(log: Log, before: string, whose: string, out: Step[]): Promise<void> {
  const earlier = await openBy(before, log.keys);
  if (earlier.origin !== log.checkpoint.origin) {
    if (log.said.previous === before) {
      out.push({ ok: true, what: `The log goes on where the one of the checkpoint ${whose} ended.` });
      return;
    }
    throw new Finding(`it is another log than the one of the checkpoint ${whose}: a backup was restored, or worse. loopback audit verify follows the chain of logs`);
  }
  if (earlier.size > log.checkpoint.size) throw new Finding(`the log has ${log.checkpoint.size.toLocaleString()} entries; it had ${earlier.size.toLocaleString()} in the checkpoint ${whose}`);
  const { hashes } = earlier.size === log.checkpoint.size || earlier.size === 0n ? { hashes: [] } : await api.audit.proveConsistency({ log: log.said.log, from: earlier.size, to: log.checkpoint.size });
  if (!(await grows(earlier, log.checkpoint, hashes))) throw new Finding(`another past was signed than the one of the checkpoint ${whose}`);
  out.push({ ok: true, what: `It only grew: its first ${earlier.size.toLocaleString()} entries are those of the checkpoint ${whose}.` });
}

/** Whether the log only grew, from what this browser remembers and from what was brought along. */
export async function verifyLog(trusted: string, brought: string): Promise<{ steps: Step[]; log?: Log }> {
  const out: Step[] = [];
  const known = remembered();
  let log: Log | undefined;
  await steps(out, async () => {
    const opened = await signed(await api.audit.getCheckpoint({}), trusted, out);
    if (known) await agree(opened, known.checkpoint, "that this browser remembers", out);
    else out.push({ ok: true, what: "This browser remembered nothing; it does from now on.", about: "What was changed before now shows only against a checkpoint from elsewhere." });
    if (brought.trim()) await agree(opened, `${brought.trim()}\n`, "that you gave", out);
    localStorage.setItem(where, JSON.stringify({ key: opened.said.key, checkpoint: opened.said.checkpoint, at: Date.now() } satisfies Remembered));
    log = opened;
  });
  return { steps: out, log };
}

/** Whether one entry is in the log, as it is shown. */
export async function verifyEntry(entry: string): Promise<{ steps: Step[]; leaf?: string; log?: Log; index?: bigint }> {
  const out: Step[] = [];
  const proof = await api.audit.proveEntry({ entry });
  let log: Log | undefined;
  await steps(out, async () => {
    if (!proof.checkpoint) throw new Finding("no checkpoint covers it yet: it is signed within about a second");
    const opened = await signed(proof.checkpoint, "", out);
    const of = JSON.parse(proof.leaf) as { id?: unknown };
    if (of.id !== entry) throw new Finding("the proof is of another entry");
    if (!(await includes(await leafHash(proof.leaf), proof.index, opened.checkpoint, proof.hashes))) throw new Finding("the entry is not the one that the checkpoint was signed over");
    out.push({ ok: true, what: `The entry is leaf ${proof.index.toLocaleString()} of ${opened.checkpoint.size.toLocaleString()}, as it was signed.`, about: `${proof.hashes.length} hashes lead from it to the signed root.` });
    log = opened;
  });
  return { steps: out, leaf: proof.leaf, log, index: proof.index };
}

const atOnce = 5000;

/** Reads every entry and hashes it. told hears how many were read; each line of the file is given to keep. */
export async function readLog(log: Log, told: (done: number) => void, keep: (line: string) => void, stop: AbortSignal): Promise<Step[]> {
  const out: Step[] = [];
  const tree = new Tree();
  let [bodies, hashes] = [0, 0];
  await steps(out, async () => {
    const { said } = log;
    keep(JSON.stringify({ began: Number(said.began), checkpoint: said.checkpoint, format: "loopback-audit/1", key: said.key, ...(said.previous ? { previous: said.previous } : {}), ...(said.handovers.length > 0 ? { handovers: said.handovers } : {}) }));
    while (BigInt(tree.size) < log.checkpoint.size) {
      const { items } = await api.audit.listLeaves({ log: said.log, start: BigInt(tree.size), limit: Math.min(atOnce, Number(log.checkpoint.size) - tree.size) }, { signal: stop });
      if (items.length === 0) throw new Finding(`the log ends after ${tree.size.toLocaleString()} entries; ${log.checkpoint.size.toLocaleString()} were signed`);
      for (const leaf of items) {
        if (leaf.absent && said.began + BigInt(tree.size) + 1n > said.pruned) throw new Finding(`the entry of position ${(said.began + BigInt(tree.size) + 1n).toLocaleString()} is gone, and retention did not delete it`);
        if (leaf.body) bodies++;
        else hashes++;
        await tree.add(leaf.body ? await leafHash(leaf.body) : leaf.hash);
        keep(leaf.body || `-${base64(leaf.hash)}`);
      }
      told(tree.size);
    }
    if (!same(await tree.root(), log.checkpoint.root)) throw new Finding("the entries are not those that were signed");
    out.push({ ok: true, what: `Every entry was read and hashed: ${bodies.toLocaleString()} whole${hashes > 0 ? `, and ${hashes.toLocaleString()} of which only the hash is there or yours to see` : ""}. Together they give the signed root.` });
  });
  return out;
}
