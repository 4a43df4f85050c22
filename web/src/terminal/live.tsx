// A session as it happens: a screen, and a line that says how it stands.
import { useEffect, useRef, useState } from "react";
import { showPasskey } from "../api/client";
import type { ShellSession } from "../api/gen/loopback/v1/shell_pb";
import { Button, Problem, cx } from "../ui/basics";
import { Connection, type Hello, type Mode, type Over } from "./connection";
import { Screen } from "./screen";

const decoder = new TextDecoder();

/** One who looks on by a guest's link. */
export interface Looking {
  secret: string;
  welcomed: (hello: Hello) => void;
}

export function LiveTerminal({ session, mode, changed, guest }: { session: Pick<ShellSession, "id" | "hostName">; mode: Mode; changed: () => void; guest?: Looking }) {
  const place = useRef<HTMLDivElement>(null);
  const [connected, setConnected] = useState<boolean>();
  const [ended, setEnded] = useState<Over>();
  const [said, setSaid] = useState("");
  const [full, setFull] = useState(false);
  const parts = useRef<{ screen: Screen; connection: Connection }>(undefined);
  const told = useRef(changed); // that the session is not as it was: it runs, or is over
  told.current = changed;
  const welcomed = useRef(guest?.welcomed);
  welcomed.current = guest?.welcomed;
  const secret = guest?.secret;
  const host = session.hostName;
  useEffect(() => {
    if (!place.current) return;
    const types = mode !== "watch";
    const screen = new Screen(place.current, {
      label: types ? `terminal of ${host}` : `what is seen in the terminal of ${host}`,
      typed: types
        ? (bytes) => {
            if (!connection.type(bytes)) setSaid("What you type waits for the host, and no more can wait: it was not taken.");
          }
        : undefined,
      fits: types ? (size) => connection.resize(size.cols, size.rows) : undefined,
    });
    const connection = new Connection({
      session: session.id,
      mode,
      guest: secret,
      stepUp: showPasskey,
      events: {
        welcomed: (hello) => welcomed.current?.(hello),
        happened: (h, shown) => {
          switch (h.kind) {
            case "o":
              screen.write(h.data, shown);
              return;
            case "r": {
              const [cols, rows] = decoder.decode(h.data).split("x").map(Number);
              if (cols && rows) screen.resize({ cols, rows });
              break;
            }
            case "h": {
              const begin = JSON.parse(decoder.decode(h.data)) as { cols?: number; rows?: number };
              if (begin.cols && begin.rows) screen.resize({ cols: begin.cols, rows: begin.rows });
              screen.refit();
              break;
            }
            case "m":
              setSaid(decoder.decode(h.data));
              break;
          }
          shown();
        },
        connected: (on) => {
          setConnected(on);
          if (on) told.current();
        },
        over: (why) => {
          setEnded(why);
          told.current();
        },
      },
    });
    parts.current = { screen, connection };
    if (types) screen.focus();
    screen.refit();
    return () => {
      connection.close();
      screen.dispose();
    };
  }, [session.id, mode, host, secret]);
  return (
    <section aria-label="terminal" className={cx("flex min-w-0 flex-col overflow-hidden rounded-lg border border-line bg-[#11161b]", full && "fixed inset-0 z-40 rounded-none")}>
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1 border-b border-white/10 bg-[#182028] px-3 py-1.5 text-[12.5px] text-[#c9d1d8]">
        <span role="status" className={cx("min-w-0 flex-1 truncate", connected === false && !ended && "text-[#e5b35c]")}>
          {ended ? `over: ${ended.message || ended.code}` : connected ? (mode === "watch" ? "you watch; what you type goes nowhere" : "recorded; others may watch") : connected === undefined ? "connecting…" : "the connection is lost; the session goes on, and so do you once it is back"}
        </span>
        {said && <span className="min-w-0 truncate text-[#e5b35c]">{said}</span>}
        <button type="button" className="rounded px-1.5 py-0.5 hover:bg-white/10" aria-pressed={full} onClick={() => setFull(!full)}>
          {full ? "Smaller" : "Fill the window"}
        </button>
      </div>
      <div ref={place} className={cx("min-h-0 p-2", full ? "flex-1" : "h-[60dvh]", !connected && !ended && "opacity-70")} />
      {ended && (
        <div className="border-t border-white/10 bg-card p-3">
          {ended.code !== "session_ended" && <Problem error={{ ...ended, violations: [], requestId: "" }} />}
          {guest ? ended.code === "session_ended" && <p>There is nothing more to see.</p> : <Button onClick={() => told.current()}>To its recording</Button>}
        </div>
      )}
    </section>
  );
}
