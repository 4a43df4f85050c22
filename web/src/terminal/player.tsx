// A session's recording, played: at any speed, without its idle times, from any moment, and searched in what was seen.
import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState } from "react";
import { api } from "../api/client";
import type { ShellSession } from "../api/gen/loopback/v1/shell_pb";
import { useSession } from "../app/session";
import { Ago, Button, Empty, Input, Problem, Select, Waiting, linkButton } from "../ui/basics";
import { parseCast, search, withoutIdle, type Cast } from "./cast";
import { Screen } from "./screen";

const most = 64 << 20; // of a cast that a page takes; longer ones are for a terminal

async function fetchCast(session: string): Promise<Cast & { text: string; cut: boolean }> {
  const parts: Uint8Array[] = [];
  let size = 0;
  let cut = false;
  for await (const piece of api.shells.replayShellSession({ session })) {
    parts.push(piece.cast);
    size += piece.cast.length;
    if (size > most) {
      cut = true;
      break;
    }
  }
  const text = await new Blob(parts as BlobPart[]).text();
  return { ...parseCast(text), text, cut };
}

const mmss = (s: number) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

export function Player({ session }: { session: ShellSession }) {
  const { why } = useSession();
  const gone = session.deletion;
  const barred = why("shell_sessions.replay");
  const read = useQuery({ queryKey: ["shells", "cast", session.id], queryFn: () => fetchCast(session.id), enabled: !barred && !gone, staleTime: Infinity, gcTime: 60_000, retry: false });
  if (gone) {
    return (
      <Empty title="Its recording was deleted">
        <p>
          By {gone.principalName || "the control plane"}, <Ago at={gone.at} />: {gone.reason}
        </p>
        <p>What it came to is still proved: its roots are below, and in the audit log.</p>
      </Empty>
    );
  }
  if (barred) {
    return (
      <Empty title="Its recording is not yours to see">
        <p>{barred}</p>
      </Empty>
    );
  }
  if (read.error) return <Problem error={read.error} retry={() => void read.refetch()} />;
  if (!read.data) return <Waiting />;
  if (read.data.steps.length === 0) {
    return (
      <Empty title="Nothing was shown">
        <p>The session ended before there was anything to see.</p>
      </Empty>
    );
  }
  return <Played cast={read.data} text={read.data.text} cut={read.data.cut} session={session} />;
}

function Played({ cast: whole, text, cut, session }: { cast: Cast; text: string; cut: boolean; session: ShellSession }) {
  const place = useRef<HTMLDivElement>(null);
  const [idle, setIdle] = useState(2);
  const [speed, setSpeed] = useState(1);
  const [playing, setPlaying] = useState(false);
  const [at, setAt] = useState(0);
  const [wanted, setWanted] = useState("");
  const cast = useMemo(() => withoutIdle(whole, idle), [whole, idle]);
  const found = useMemo(() => search(cast, wanted.trim()), [cast, wanted]);
  const state = useRef<{ screen?: Screen; next: number; at: number }>({ next: 0, at: 0 });

  useEffect(() => {
    if (!place.current) return;
    const screen = new Screen(place.current, { label: `recording of ${session.hostName}` });
    state.current.screen = screen;
    return () => {
      screen.dispose();
      state.current.screen = undefined;
    };
  }, [session.hostName]);

  /** Shows everything up to a moment; going back begins anew. */
  const seek = (to: number) => {
    const s = state.current;
    if (!s.screen) return;
    if (to < s.at || s.next === 0) {
      s.screen.clear();
      s.screen.resize({ cols: cast.cols, rows: cast.rows });
      s.next = 0;
    }
    let pending = "";
    for (; s.next < cast.steps.length && cast.steps[s.next]!.at <= to; s.next++) {
      const step = cast.steps[s.next]!;
      if (step.kind === "o") pending += step.text;
      else if (step.kind === "r") {
        s.screen.write(pending);
        pending = "";
        const [cols, rows] = step.text.split("x").map(Number);
        const screen = s.screen;
        if (cols && rows) screen.write("", () => screen.resize({ cols, rows }));
      }
    }
    s.screen.write(pending);
    s.at = to;
    setAt(to);
  };
  const seeking = useRef(seek);
  seeking.current = seek;

  useEffect(() => {
    state.current.next = 0;
    seeking.current(0);
  }, [cast]);

  useEffect(() => {
    if (!playing) return;
    let last = performance.now();
    let frame = 0;
    const turn = (now: number) => {
      const to = Math.min(state.current.at + ((now - last) / 1000) * speed, cast.length);
      last = now;
      seeking.current(to);
      if (to >= cast.length) setPlaying(false);
      else frame = requestAnimationFrame(turn);
    };
    frame = requestAnimationFrame(turn);
    return () => cancelAnimationFrame(frame);
  }, [playing, speed, cast]);

  const file = useMemo(() => URL.createObjectURL(new Blob([text], { type: "application/x-asciicast" })), [text]);
  useEffect(() => () => URL.revokeObjectURL(file), [file]);

  return (
    <section aria-label="recording" className="flex min-w-0 flex-col gap-3">
      {cut && <Problem error={{ code: "recording_long", message: "the recording is longer than a page can take; this is its beginning", hint: `in a terminal: loopback session replay ${session.id}`, violations: [], requestId: "" }} />}
      <div className="overflow-x-auto rounded-lg border border-line bg-[#11161b] p-2">
        <div ref={place} className="h-[55dvh] min-w-fit" />
      </div>
      <div className="flex flex-wrap items-center gap-2">
        <Button
          kind="primary"
          onClick={() => {
            if (!playing && at >= cast.length) seek(0);
            setPlaying(!playing);
          }}
        >
          {playing ? "Pause" : "Play"}
        </Button>
        <input type="range" aria-label="moment" aria-valuetext={`${mmss(at)} of ${mmss(cast.length)}`} min={0} max={cast.length} step={0.1} value={at} onChange={(e) => seek(Number(e.target.value))} className="min-w-40 flex-1 accent-(--color-accent)" />
        <span className="text-[12.5px] text-soft tabular-nums">
          {mmss(at)} / {mmss(cast.length)}
        </span>
        <Select aria-label="speed" value={speed} onChange={(e) => setSpeed(Number(e.target.value))} className="w-24!">
          {[0.5, 1, 2, 4, 16].map((v) => (
            <option key={v} value={v}>
              {v} ×
            </option>
          ))}
        </Select>
        <Select aria-label="pauses" value={idle} onChange={(e) => setIdle(Number(e.target.value))} className="w-52!">
          <option value={0}>Pauses as they were</option>
          <option value={2}>No pause over 2 s</option>
          <option value={0.5}>No pause over 0.5 s</option>
        </Select>
        <a href={file} download={`${session.id}.cast`} className={linkButton().className}>
          Save it
        </a>
      </div>
      <div className="flex flex-col gap-2">
        <Input type="search" aria-label="search what was seen" placeholder="Search what was seen…" value={wanted} onChange={(e) => setWanted(e.target.value)} className="max-w-md" />
        {wanted.trim() && (
          <ol aria-label="found" className="max-h-60 overflow-auto rounded-md border border-line bg-card">
            {found.map((f, i) => (
              <li key={i} className="border-b border-line/70 last:border-0">
                <button type="button" className="flex w-full gap-3 px-3 py-1.5 text-left hover:bg-sunk" onClick={() => seek(f.at)}>
                  <span className="w-12 shrink-0 text-right text-soft tabular-nums">{mmss(f.at)}</span>
                  <code className="min-w-0 truncate font-mono text-[12.5px]">{f.line}</code>
                </button>
              </li>
            ))}
            {found.length === 0 && <li className="px-3 py-4 text-center text-soft">Nobody saw that here.</li>}
          </ol>
        )}
      </div>
    </section>
  );
}
