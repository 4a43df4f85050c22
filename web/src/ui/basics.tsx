// The small parts that every page is made of.
import { useEffect, useId, useLayoutEffect, useRef, useState, useSyncExternalStore, type ButtonHTMLAttributes, type InputHTMLAttributes, type ReactNode, type SelectHTMLAttributes } from "react";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { roughly } from "../api/duration";
import { clock, troubleOf } from "../api/client";
import { lookOf } from "./states";

export function cx(...names: (string | false | null | undefined)[]): string {
  return names.filter(Boolean).join(" ");
}

type Kind = "plain" | "primary" | "danger" | "quiet";

const kinds: Record<Kind, string> = {
  plain: "border border-edge/50 bg-card hover:border-edge",
  primary: "border border-transparent bg-accent text-accent-ink hover:brightness-110",
  danger: "border border-bad/60 bg-card text-bad hover:bg-bad-wash",
  quiet: "border border-transparent text-soft hover:bg-sunk hover:text-ink",
};

const shape = "inline-flex h-8 items-center justify-center gap-1.5 rounded-md px-3 text-[13px] font-medium whitespace-nowrap transition-colors disabled:opacity-50 disabled:cursor-not-allowed";

export function buttonClass(kind: Kind = "plain"): string {
  return cx(shape, kinds[kind]);
}

export function Button({ kind = "plain", busy, why, className, children, ...rest }: ButtonHTMLAttributes<HTMLButtonElement> & { kind?: Kind; busy?: boolean; why?: string }) {
  // What one may not do is explained, not hidden without a word.
  return (
    <button type="button" {...rest} title={why || rest.title} aria-disabled={why ? true : undefined} disabled={rest.disabled || busy} onClick={why ? (e) => e.preventDefault() : rest.onClick} className={cx(buttonClass(kind), why && "opacity-50 cursor-not-allowed", className)}>
      {busy && <Spinner />}
      {children}
    </button>
  );
}

/** What makes a link look like a button; with a reason why not, like one that cannot be pressed. */
export function linkButton(kind: Kind = "plain", why = "") {
  return { className: cx(buttonClass(kind), why && "opacity-50 cursor-not-allowed"), title: why || undefined, "aria-disabled": why ? true : undefined, onClick: why ? (e: { preventDefault: () => void }) => e.preventDefault() : undefined };
}

export function Spinner() {
  return <span aria-hidden className="inline-block size-3 animate-spin rounded-full border-2 border-current border-r-transparent" />;
}

export function Mark({ state }: { state: string }) {
  const { shape: form } = lookOf(state);
  const common = "inline-block size-2.5 shrink-0";
  switch (form) {
    case "dot":
      return <span aria-hidden className={cx(common, "rounded-full bg-current")} />;
    case "ring":
      return <span aria-hidden className={cx(common, "rounded-full border-2 border-current")} />;
    case "half":
      return <span aria-hidden className={cx(common, "rounded-full border-2 border-current bg-linear-to-t from-current from-50% to-transparent to-50%")} />;
    case "bar":
      return <span aria-hidden className={cx(common, "rounded-[3px] bg-current")} />;
    case "busy":
      return <span aria-hidden className={cx(common, "animate-spin rounded-full border-2 border-current border-r-transparent")} />;
    default:
      return <span aria-hidden className={cx(common, "leading-2.5 text-center font-bold")}>×</span>;
  }
}

/** kind says whose state it is, where another thing's state of that name means something else. */
export function State({ of, kind, reason }: { of: string; kind?: string; reason?: string }) {
  const look = kind ? `${kind} ${of}` : of;
  const { tone, means } = lookOf(look);
  return (
    <span className="inline-flex min-w-0 items-center gap-1.5" title={[means, reason].filter(Boolean).join(" — ")}>
      <span className={cx("inline-flex items-center gap-1.5 font-medium", tone)}>
        <Mark state={look} />
        {of}
      </span>
    </span>
  );
}

// One clock for all that is relative to now: a page of a thousand rows has one timer.
const tick = { now: Date.now(), listeners: new Set<() => void>(), timer: 0 };
function subscribe(call: () => void): () => void {
  tick.listeners.add(call);
  if (!tick.timer) {
    tick.now = Date.now() + clock.ahead; // nobody kept it true meanwhile
    tick.timer = window.setInterval(() => {
      tick.now = Date.now() + clock.ahead;
      tick.listeners.forEach((l) => l());
    }, 1000);
  }
  return () => {
    tick.listeners.delete(call);
    if (tick.listeners.size === 0) {
      window.clearInterval(tick.timer);
      tick.timer = 0;
    }
  };
}

export function useNow(): number {
  return useSyncExternalStore(subscribe, () => tick.now);
}

const precise = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A moment, relative to now; the exact one is in its title. */
export function Ago({ at, never = "never" }: { at: Timestamp | undefined; never?: string }) {
  const now = useNow();
  if (!at) return <span className="text-soft">{never}</span>;
  const date = timestampDate(at);
  const delta = (now - date.getTime()) / 1000;
  return (
    <time dateTime={date.toISOString()} title={precise.format(date)} className="tabular-nums">
      {delta < -2 ? `in ${roughly(-delta)}` : `${roughly(delta)} ago`}
    </time>
  );
}

export function Labels({ of }: { of: Record<string, string> }) {
  const all = Object.entries(of).sort(([a], [b]) => a.localeCompare(b));
  if (all.length === 0) return null;
  return (
    <ul className="flex min-w-0 flex-wrap gap-1">
      {all.map(([k, v]) => (
        <li key={k} className="max-w-64 truncate rounded border border-line bg-sunk px-1.5 font-mono text-[12px] text-soft" title={`${k}=${v}`}>
          {k}
          {v && <span className="text-ink">={v}</span>}
        </li>
      ))}
    </ul>
  );
}

export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <Button
      onClick={() => {
        void navigator.clipboard.writeText(text).then(() => setCopied(true));
      }}
    >
      <span aria-live="polite">{copied ? "Copied" : label}</span>
    </Button>
  );
}

/** What to run, ready to copy. */
export function Command({ text, label }: { text: string; label?: string }) {
  return (
    <div className="flex items-start gap-2 rounded-md border border-line bg-sunk p-2 pl-3">
      <pre tabIndex={0} aria-label={label ?? "command"} className="min-w-0 flex-1 py-1 text-left font-mono text-[12.5px] leading-5 wrap-anywhere whitespace-pre-wrap">
        {text}
      </pre>
      <Copy text={text} />
    </div>
  );
}

/** The server's own words: what was wrong, its code, and what to do. */
export function Problem({ error, retry }: { error: unknown; retry?: () => void }) {
  const t = troubleOf(error);
  return (
    <div role="alert" className="rounded-md border border-bad/40 bg-bad-wash px-3 py-2 text-[13px]">
      <p className="font-medium text-bad">{t.message}</p>
      {t.violations.length > 0 && (
        <ul className="mt-1 list-disc pl-5">
          {t.violations.map((v) => (
            <li key={v.field + v.message}>
              <span className="font-mono text-[12px]">{v.field}</span> {v.message}
            </li>
          ))}
        </ul>
      )}
      {t.hint && <p className="mt-0.5">{t.hint}</p>}
      <p className="mt-1 flex items-center gap-3 text-[12px] text-soft">
        <span className="font-mono">{t.code}</span>
        {t.requestId && <span className="font-mono">{t.requestId}</span>}
        {retry && (
          <button type="button" onClick={retry} className="text-accent underline">
            Try again
          </button>
        )}
      </p>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="flex flex-col items-center gap-2 px-6 py-14 text-center">
      <p className="text-[15px] font-medium">{title}</p>
      <div className="flex max-w-xl flex-col items-center gap-3 text-balance text-soft">{children}</div>
    </div>
  );
}

const box = "h-8 w-full rounded-md border border-edge/50 bg-card px-2.5 text-[13px] placeholder:text-soft/80 hover:border-edge";

export function Field({ label, hint, error, children }: { label: string; hint?: ReactNode; error?: string; children: (id: { id: string; "aria-describedby": string | undefined; "aria-invalid": boolean | undefined }) => ReactNode }) {
  const id = useId();
  const about = hint || error ? `${id}-about` : undefined;
  return (
    <div className="flex flex-col gap-1">
      <label htmlFor={id} className="text-[13px] font-medium">
        {label}
      </label>
      {children({ id, "aria-describedby": about, "aria-invalid": error ? true : undefined })}
      {(hint || error) && (
        <p id={about} className={cx("text-[12px]", error ? "text-bad" : "text-soft")}>
          {error || hint}
        </p>
      )}
    </div>
  );
}

/** With autoFocus it takes the focus whenever it appears: the attribute alone does so only in a page or a dialog that opens. */
export function Input(props: InputHTMLAttributes<HTMLInputElement>) {
  const ref = useRef<HTMLInputElement>(null);
  const { autoFocus } = props;
  useLayoutEffect(() => {
    if (autoFocus) ref.current?.focus();
  }, [autoFocus]);
  const id = useId(); // a browser remembers fields by theirs
  return <input ref={ref} id={id} autoComplete="off" spellCheck={false} {...props} className={cx(box, props.className)} />;
}

export function Select(props: SelectHTMLAttributes<HTMLSelectElement>) {
  const id = useId();
  return <select id={id} {...props} className={cx(box, "pr-7", props.className)} />;
}

/** The browser's own dialog: it traps focus, closes on Escape, and gives the focus back, also where it is taken out open. With must it stays until it is taken out. */
export function Dialog({ title, open, close, wide, must, children }: { title: string; open: boolean; close: () => void; wide?: boolean; must?: boolean; children: ReactNode }) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useLayoutEffect(() => {
    const dialog = ref.current;
    if (!dialog) return;
    if (!open || dialog.open) return;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, [open]);
  return (
    <dialog
      ref={ref}
      onCancel={must ? (e) => e.preventDefault() : undefined}
      onClose={() => {
        if (!ref.current?.isConnected) return; // closed because it was taken out, for another in its place
        if (must) ref.current.showModal(); // a second Escape closes it, whatever the first was told
        else close();
      }}
      aria-labelledby={id}
      className={cx("rounded-xl border border-line bg-card p-0 shadow-2xl", wide ? "w-[min(52rem,calc(100vw-2rem))]" : "w-[min(34rem,calc(100vw-2rem))]")}
    >
      {open && (
        <div className="flex flex-col gap-4 p-5">
          <h2 id={id} className="text-[16px] font-semibold wrap-anywhere">
            {title}
          </h2>
          {children}
        </div>
      )}
    </dialog>
  );
}

export function Page({ title, about, actions, children }: { title: ReactNode; about?: ReactNode; actions?: ReactNode; children: ReactNode }) {
  const text = typeof title === "string" ? title : "";
  useEffect(() => {
    if (text) document.title = `${text} · Loopback`;
  }, [text]);
  return (
    <main id="main" tabIndex={-1} className="flex min-w-0 flex-1 flex-col gap-4 p-4 outline-none sm:p-6">
      <header className="flex flex-wrap items-start gap-x-4 gap-y-2">
        <div className="min-w-0 flex-1 basis-72">
          <h1 className="text-[20px] leading-7 font-semibold tracking-tight wrap-anywhere">{title}</h1>
          {about && <div className="text-soft wrap-anywhere">{about}</div>}
        </div>
        {actions && <div className="flex flex-wrap gap-2">{actions}</div>}
      </header>
      {children}
    </main>
  );
}

export function Card({ title, actions, children, flush }: { title?: ReactNode; actions?: ReactNode; children: ReactNode; flush?: boolean }) {
  return (
    <section className="min-w-0 overflow-hidden rounded-lg border border-line bg-card has-[>div:only-child:empty]:hidden">
      {title && (
        <header className="flex items-center gap-2 border-b border-line px-4 py-2.5">
          <h2 className="flex-1 text-[13px] font-semibold">{title}</h2>
          {actions}
        </header>
      )}
      <div className={flush ? "" : "p-4"}>{children}</div>
    </section>
  );
}

/** Names and values, for the facts of one thing. */
export function Facts({ of }: { of: [string, ReactNode][] }) {
  return (
    <dl className="grid grid-cols-[minmax(7rem,auto)_1fr] gap-x-4 gap-y-1.5">
      {of
        .filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false)
        .map(([name, value]) => (
          <div key={name} className="contents">
            <dt className="text-soft">{name}</dt>
            <dd className="min-w-0 wrap-anywhere">{value}</dd>
          </div>
        ))}
    </dl>
  );
}

export function Waiting({ rows = 6 }: { rows?: number }) {
  return (
    <div role="status" aria-label="loading" className="flex flex-col gap-2 p-4">
      {Array.from({ length: rows }, (_, i) => (
        <div key={i} className="h-5 animate-pulse rounded bg-sunk" />
      ))}
    </div>
  );
}
