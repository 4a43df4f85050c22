// Every page and every host, some keystrokes away.
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "react";
import { api } from "../api/client";
import { Mark, cx } from "../ui/basics";
import { lookOf } from "../ui/states";
import { groups } from "./pages";
import { paths } from "./paths";
import { usePlace } from "./place";
import { useSession } from "./session";

interface Entry {
  key: string;
  label: string;
  about: string;
  state?: string;
  go: () => void;
}

export function Palette({ open, close }: { open: boolean; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  // Before the next key is handled: what is typed right after Ctrl K is meant for the field.
  useLayoutEffect(() => {
    if (open && !dialog.current?.open) dialog.current?.showModal();
    if (!open && dialog.current?.open) dialog.current.close();
  }, [open]);
  return (
    <dialog ref={dialog} onCancel={close} onClose={close} aria-label="Go to" className="mt-[12vh] w-[min(36rem,calc(100vw-2rem))] rounded-xl border border-line bg-card p-0 shadow-2xl" onClick={(e) => e.target === dialog.current && close()}>
      {open && <Chooser close={close} />}
    </dialog>
  );
}

function Chooser({ close }: { close: () => void }) {
  const navigate = useNavigate();
  const { may } = useSession();
  const { place, places, choose } = usePlace();
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const id = useId();
  const list = useRef<HTMLUListElement>(null);
  const wanted = text.trim().toLowerCase();
  const hosts = useQuery({
    queryKey: ["hosts", "find", place?.id, wanted],
    enabled: may("hosts.read"),
    queryFn: () => api.hosts.listHosts({ workspace: place?.id ?? "", query: wanted ? `name~${JSON.stringify(wanted)}` : "", page: { size: 20 } }),
    placeholderData: (old) => old,
  });
  const saved = useQuery({
    queryKey: ["saved commands", "find", place?.id, wanted],
    enabled: may("commands.read") && wanted !== "",
    queryFn: async () => (await import("../api/commands")).commands.listCommands({ workspace: place?.id ?? "", current: true, search: wanted, page: { size: 20 } }),
    placeholderData: (old) => old,
  });
  const entries = useMemo(() => {
    const to = (path: string) => () => void navigate({ to: path, search: ((old: { in?: string }) => ({ in: old.in })) as never });
    const all: Entry[] = groups.flatMap((g) => g.pages.filter((p) => may(p.needs)).map((p) => ({ key: p.to, label: p.label === g.label ? p.label : `${g.label}: ${p.label.toLowerCase()}`, about: "page", go: to(p.to) })));
    if (places.length > 1) {
      all.push({ key: "in:", label: "All workspaces", about: "workspace", go: () => choose("") });
      for (const p of places) all.push({ key: p.id, label: p.label, about: "workspace", go: () => choose(p.path) });
    }
    const found = all.filter((e) => e.label.toLowerCase().includes(wanted));
    // What was found for what was typed before is still there for a moment: Enter must not lead to one of those.
    const named = (hosts.data?.items ?? []).filter((h) => h.name.toLowerCase().includes(wanted));
    named.sort((a, b) => Number(b.name.toLowerCase() === wanted) - Number(a.name.toLowerCase() === wanted));
    for (const h of named) found.push({ key: h.id, label: h.name, about: h.state, state: h.state, go: to(paths.host(h.id)) });
    for (const c of saved.data?.items ?? []) if (wanted && c.name.toLowerCase().includes(wanted)) found.push({ key: c.id, label: c.name, about: "saved command", go: to(paths.savedCommand(c.id)) });
    return found.slice(0, 50);
  }, [wanted, hosts.data, saved.data, places, may, navigate, choose]);
  const current = Math.min(at, entries.length - 1);
  useEffect(() => {
    list.current?.children[current]?.scrollIntoView({ block: "nearest" });
  }, [current]);
  const take = (e: Entry | undefined) => {
    if (!e) return;
    close();
    e.go();
  };
  return (
    <>
      <input
        role="combobox"
        aria-expanded
        aria-controls={id}
        aria-activedescendant={entries[current] ? `${id}-${current}` : undefined}
        aria-label="Go to a page, a workspace, a host or a saved command"
        placeholder="Go to a page, a workspace, a host or a saved command…"
        autoFocus
        spellCheck={false}
        value={text}
        onChange={(e) => {
          setText(e.target.value);
          setAt(0);
        }}
        onKeyDown={(e) => {
          if (e.key === "ArrowDown" || e.key === "ArrowUp") {
            e.preventDefault();
            const step = e.key === "ArrowDown" ? 1 : -1;
            setAt((current + step + entries.length) % Math.max(1, entries.length));
          } else if (e.key === "Enter") {
            e.preventDefault();
            take(entries[current]);
          }
        }}
        className="w-full border-b border-line bg-transparent px-4 py-3 text-[15px] outline-none placeholder:text-soft"
      />
      <ul ref={list} id={id} role="listbox" aria-label="found" className="max-h-80 overflow-auto p-1.5">
        {entries.map((e, i) => (
          <li key={e.key} id={`${id}-${i}`} role="option" aria-selected={i === current} onMouseMove={() => setAt(i)} onClick={() => take(e)} className={cx("flex cursor-pointer items-center gap-2 rounded-md px-2.5 py-1.5", i === current && "bg-accent-wash")}>
            <span className="min-w-0 flex-1 truncate">{e.label}</span>
            <span className={cx("flex items-center gap-1.5 text-[12px]", e.state ? lookOf(e.state).tone : "text-soft")}>
              {e.state && <Mark state={e.state} />}
              {e.about}
            </span>
          </li>
        ))}
        {entries.length === 0 && <li className="px-2.5 py-6 text-center text-soft">Nothing is called that.</li>}
      </ul>
    </>
  );
}
