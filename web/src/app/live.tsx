// One stream of hosts for the whole tab (and one of other changes: app/changes). What is on screen is patched in place; lists whose filter a change may touch are
// asked for again, at most once a second. When the stream breaks (a restart of the control plane, a laptop that slept) it is
// opened anew, and everything is asked for once, since what happened meanwhile was not heard.
import { useQueryClient, type QueryClient, type InfiniteData } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useState, type ReactNode } from "react";
import { api, troubleOf } from "../api/client";
import type { Host, HostChange, ListHostsResponse } from "../api/gen/loopback/v1/host_pb";
import { followChanges } from "./changes";

export type Connection = "live" | "connecting" | "offline" | "barred";

export interface Happening {
  key: number;
  host: Host;
  from: string;
  at: Date;
}

const LiveContext = createContext<{ connection: Connection; recent: Happening[] }>({ connection: "connecting", recent: [] });

export const useLive = () => useContext(LiveContext);

const remembered = 50;
const slept = 150_000; // milliseconds between two beats of five seconds; a tab that nobody looks at beats once a minute

export function Live({ children }: { children: ReactNode }) {
  const queries = useQueryClient();
  const [connection, setConnection] = useState<Connection>("connecting");
  const [recent, setRecent] = useState<Happening[]>([]);
  useEffect(() => {
    const stop = new AbortController();
    const patch = patcher(queries);
    let count = 0;
    // A stream whose network is gone may look open for minutes. The browser says when it is, and a clock that jumps that the computer slept.
    let attempt = new AbortController();
    const cut = () => attempt.abort();
    let last = Date.now();
    const asleep = window.setInterval(() => {
      if (Date.now() - last > slept) cut();
      last = Date.now();
    }, 5_000);
    window.addEventListener("offline", cut);
    const follow = async () => {
      for (let pause = 500; !stop.signal.aborted; pause = Math.min(pause * 2, 10_000)) {
        attempt = new AbortController();
        try {
          for await (const event of api.hosts.watchHosts({ changesOnly: true }, { signal: AbortSignal.any([stop.signal, attempt.signal]) })) {
            pause = 500;
            switch (event.event.case) {
              case "synced":
                setConnection("live");
                break;
              case "reset":
                void queries.invalidateQueries({ queryKey: ["hosts"] });
                break;
              case "changed": {
                const change = event.event.value;
                patch(change);
                if (change.host && change.previousState && change.previousState !== change.host.state) {
                  const happening = { key: ++count, host: change.host, from: change.previousState, at: new Date() };
                  setRecent((old) => [happening, ...old].slice(0, remembered));
                }
              }
            }
          }
        } catch (error) {
          // Said by the state of the connection; a call that matters says why by itself.
          if (!stop.signal.aborted && troubleOf(error).code === "permission_denied") {
            setConnection("barred"); // no host is theirs to see; a role may come
            await new Promise((go) => setTimeout(go, 10_000));
            void queries.invalidateQueries({ queryKey: ["who"] });
            continue;
          }
        }
        if (stop.signal.aborted) return;
        setConnection(navigator.onLine ? "connecting" : "offline");
        if (await rest(pause * (0.5 + Math.random()))) pause = 500;
        void queries.invalidateQueries();
      }
    };
    void follow();
    void followChanges(queries, stop.signal);
    return () => {
      stop.abort();
      patch.stop();
      window.clearInterval(asleep);
      window.removeEventListener("offline", cut);
    };
  }, [queries]);
  return <LiveContext value={{ connection, recent }}>{children}</LiveContext>;
}

/** Waits so long, or until the computer has a network again: true. */
function rest(length: number): Promise<boolean> {
  return new Promise((go) => {
    const done = (online: boolean) => {
      window.clearTimeout(timer);
      window.removeEventListener("online", back);
      go(online);
    };
    const back = () => done(true);
    const timer = window.setTimeout(() => done(false), length);
    window.addEventListener("online", back);
  });
}

/** Changes come by the hundred: they are gathered and applied once a frame. */
function patcher(queries: QueryClient) {
  let waiting = new Map<string, HostChange>();
  let frame = 0;
  let refetch = 0;
  const apply = () => {
    frame = 0;
    const changes = waiting;
    waiting = new Map();
    let moved = false; // in or out of a list, or to another place in it
    for (const change of changes.values()) {
      const host = change.host!;
      queries.setQueryData<Host>(["hosts", "one", host.id], (old) => (old ? merge(old, host) : old));
      moved ||= change.gone || change.previousState !== host.state;
    }
    queries.setQueriesData<InfiniteData<ListHostsResponse>>({ queryKey: ["hosts", "list"] }, (old) => {
      if (!old) return old;
      let touched = false;
      const pages = old.pages.map((page) => {
        if (!page.items.some((h) => changes.has(h.id))) return page;
        touched = true;
        return { ...page, items: page.items.map((h) => (changes.has(h.id) ? merge(h, changes.get(h.id)!.host!) : h)) };
      });
      return touched ? { ...old, pages } : old;
    });
    if (moved && !refetch) {
      refetch = window.setTimeout(() => {
        refetch = 0;
        void queries.invalidateQueries({ queryKey: ["hosts", "count"] });
        void queries.invalidateQueries({ queryKey: ["hosts", "list"] });
      }, 1000);
    }
  };
  const patch = (change: HostChange) => {
    if (!change.host) return;
    waiting.set(change.host.id, change);
    frame ||= requestAnimationFrame(apply);
  };
  patch.stop = () => {
    cancelAnimationFrame(frame);
    window.clearTimeout(refetch);
  };
  return patch;
}

/** What the stream says, with what it leaves out (disks and addresses) as it was. */
function merge(old: Host, now: Host): Host {
  if (now.revision < old.revision) return old;
  const inventory = now.inventory && old.inventory ? { ...now.inventory, disks: now.inventory.disks.length ? now.inventory.disks : old.inventory.disks, addresses: now.inventory.addresses.length ? now.inventory.addresses : old.inventory.addresses } : (now.inventory ?? old.inventory);
  return { ...now, inventory } as Host;
}
