// Lists of everything but hosts: the control plane says of which kinds of things some changed, and what is shown of them is
// asked for again, at most once a second. A tab that nobody looks at does not listen; when it is looked at again, all is
// asked for once.
import { type QueryClient } from "@tanstack/react-query";
import { api } from "../api/client";

/** What is asked for again when things of a kind change, by the first word of its key. */
const keys: Record<string, string[]> = {
  organisation: ["places"],
  project: ["places"],
  workspace: ["places"],
  token: ["tokens"],
  settings: ["settings"],
  operation: ["operations"],
  api_key: ["keys"],
  release: ["releases"],
  principal: ["users", "service accounts"],
  group: ["groups"],
  role: ["roles", "questions"],
  binding: ["bindings", "questions"],
  sink: ["sinks"],
  access_review: ["reviews"],
  sign_in: ["sign-ins"],
  exec: ["commands"],
  command: ["saved commands"],
  grant: ["grants"],
  grant_policy: ["grant policies"],
  provider: ["providers"],
  lock: ["locks"],
  guest: ["guests"],
  session_review: ["session reviews"],
  session_review_policy: ["session review policies"],
};

const rest = 1000;

/** Follows changes until stop is aborted. */
export async function followChanges(queries: QueryClient, stop: AbortSignal): Promise<void> {
  const due = new Set<string>();
  let timer = 0;
  const ask = (names: string[]) => {
    for (const n of names) due.add(n);
    timer ||= window.setTimeout(() => {
      timer = 0;
      const now = new Set(due);
      due.clear();
      // What is being asked for already is not asked for from the start: under a steady stream it would never end.
      void queries.invalidateQueries({ predicate: (q) => now.has(String(q.queryKey[0])) }, { cancelRefetch: false });
    }, rest);
  };
  stop.addEventListener("abort", () => window.clearTimeout(timer));
  let first = true;
  for (let pause = 500; !stop.aborted; pause = Math.min(pause * 2, 10_000)) {
    await seen(stop);
    const hidden = new AbortController();
    const over = AbortSignal.any([stop, hidden.signal]);
    const look = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", look);
    try {
      for await (const told of api.changes.watchChanges({}, { signal: over })) {
        pause = 500;
        if (told.synced && !first) ask(Object.values(keys).flat());
        first = false;
        ask([...told.kinds.flatMap((k) => keys[k] ?? []), ...(told.access ? ["who"] : [])]);
      }
    } catch {
      // The stream of hosts says whether the control plane answers.
    } finally {
      document.removeEventListener("visibilitychange", look);
    }
    if (stop.aborted) return;
    if (!hidden.signal.aborted) await new Promise((go) => setTimeout(go, pause * (0.5 + Math.random())));
  }
}

/** Waits until somebody looks at the page. */
async function seen(stop: AbortSignal): Promise<void> {
  if (!document.hidden) return;
  await new Promise<void>((go) => {
    const look = () => {
      if (document.hidden && !stop.aborted) return;
      document.removeEventListener("visibilitychange", look);
      stop.removeEventListener("abort", look);
      go();
    };
    document.addEventListener("visibilitychange", look);
    stop.addEventListener("abort", look);
  });
}
