// What a host tells of itself: asked for by the API, fetched as bytes.
import { createClient } from "@connectrpc/connect";
import { transport, troubleOf, type Trouble } from "./client";
import { FileService, type FileTransfer } from "./gen/loopback/v1/file_pb";

export const files = createClient(FileService, transport);

const trouble = (code: string, message: string, hint: string): Trouble => ({ code, message, hint, violations: [], requestId: "" });

/** What became of a transfer whose bytes broke off, in the control plane's words where it can be asked. */
async function ending(transfer: string, fallback: Trouble): Promise<Trouble> {
  const now = await files.getFileTransfer({ transfer }).catch(() => undefined);
  return now?.error ? trouble(now.errorCode || "file_failed", now.error, now.hint) : fallback;
}

/**
 * Fetches the bundle of a diagnosis; tell hears how many bytes have come. It rejects with a Trouble. With checked, the bundle is held
 * against the SHA-256 that the host said: it takes the permission to see the transfer.
 */
export async function fetchBundle(transfer: FileTransfer, tell: (bytes: number) => void, stop: AbortSignal, checked: boolean): Promise<Blob> {
  const cut = trouble("file_cut", "the bundle broke off on its way", "begin anew; look at the host's state and at the network");
  const answer = await fetch(`/file/v1/${encodeURIComponent(transfer.id)}?kind=diagnose`, { signal: stop }).catch((error: unknown) => {
    throw troubleOf(error);
  });
  if (!answer.ok || !answer.body) {
    const said = (await answer.json().catch(() => ({}))) as Partial<Trouble>;
    throw trouble(said.code ?? "unknown", said.message ?? answer.statusText, said.hint ?? "");
  }
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(async () => {
      throw checked ? await ending(transfer.id, cut) : cut;
    });
    if (done) break;
    parts.push(value);
    tell((size += value.length));
  }
  const bundle = new Blob(parts, { type: "application/gzip" });
  if (!checked) return bundle;
  const now = await files.getFileTransfer({ transfer: transfer.id });
  if (now.state !== "succeeded") throw trouble(now.errorCode || "file_failed", now.error || `the diagnosis is ${now.state}`, now.hint);
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", await bundle.arrayBuffer()));
  if ([...sum].map((b) => b.toString(16).padStart(2, "0")).join("") !== now.sha256) throw trouble("file_damaged", "what came has another SHA-256 than what the host sent", "begin anew");
  return bundle;
}
