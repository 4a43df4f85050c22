// The frame around every page: where one is, where one can go, and whether what is seen is live.
import { Link, Outlet, useLocation } from "@tanstack/react-router";
import { lazy, Suspense, useLayoutEffect, useState } from "react";
import { flushSync } from "react-dom";
import { Button, Command, Empty, Page, cx } from "../ui/basics";
import { useMedia } from "../ui/media";
import { useLive } from "./live";
import { grants, groups, pageAt } from "./pages";
import { Palette } from "./palette";
import { paths } from "./paths";
import { usePlace } from "./place";
import { useSession, Wordmark } from "./session";
import { applyTheme, theme, type Theme } from "./theme";

// What wants attention is looked for once the page is there.
const Attention = lazy(() => import("./attention").then((m) => ({ default: m.Attention })));
const Count = lazy(() => import("./attention").then((m) => ({ default: m.Count })));

export function Shell() {
  const [menu, setMenu] = useState(false);
  const [palette, setPalette] = useState(false);
  const wide = useMedia("(min-width: 48rem)"); // as md: in style.css
  useLayoutEffect(() => {
    const keys = (e: KeyboardEvent) => {
      if ((e.metaKey || e.ctrlKey) && e.key.toLowerCase() === "k") {
        e.preventDefault();
        flushSync(() => setPalette((open) => !open)); // a key that follows at once finds it open
      }
    };
    window.addEventListener("keydown", keys);
    return () => window.removeEventListener("keydown", keys);
  }, []);
  return (
    <div className="flex min-h-dvh flex-col md:flex-row">
      <a href="#main" className="sr-only focus:not-sr-only focus:fixed focus:top-2 focus:left-2 focus:z-50 focus:rounded-md focus:bg-card focus:px-3 focus:py-2">
        Skip to the page
      </a>
      <header className="flex items-center gap-3 border-b border-line px-4 py-2 md:hidden">
        <Wordmark />
        <span className="flex-1" />
        {!wide && (
          <Suspense>
            <Attention small />
          </Suspense>
        )}
        <Button kind="quiet" onClick={() => setPalette(true)}>
          Search
        </Button>
        <Button aria-expanded={menu} aria-controls="nav" onClick={() => setMenu(!menu)}>
          Menu
        </Button>
      </header>
      <nav id="nav" aria-label="main" className={cx("flex shrink-0 flex-col gap-3 border-line p-3 max-md:border-b md:sticky md:top-0 md:h-dvh md:w-56 md:border-r", !menu && "max-md:hidden")}>
        <div className="px-2 pt-1 max-md:hidden">
          <Wordmark />
        </div>
        <PlaceChooser />
        <button type="button" onClick={() => setPalette(true)} className="flex h-8 items-center gap-2 rounded-md border border-edge/50 bg-card px-2.5 text-[13px] text-soft hover:border-edge max-md:hidden">
          <span className="flex-1 text-left">Go to…</span>
          <kbd className="rounded border border-line bg-sunk px-1 font-sans text-[11px]">{/Mac/.test(navigator.platform) ? "⌘" : "Ctrl"} K</kbd>
        </button>
        {wide && (
          <Suspense>
            <Attention />
          </Suspense>
        )}
        <NavLinks close={() => setMenu(false)} />
        <span className="flex-1" />
        <Foot />
      </nav>
      <Allowed />
      <Palette open={palette} close={() => setPalette(false)} />
    </div>
  );
}

/** A page that one may not see says so, and whom to ask, instead of failing call by call. */
function Allowed() {
  const { may, who } = useSession();
  const at = useLocation({ select: (l) => l.pathname });
  const page = pageAt(at);
  if (!page || may(page.needs)) return <Outlet />;
  const nothing = groups.every((g) => g.pages.every((p) => !may(p.needs)));
  return (
    <Page title={page.label}>
      <Empty title={nothing ? "Nothing here is yours to see yet" : "This page is not yours to see"}>
        <p>
          You are signed in as <strong className="wrap-anywhere">{who.name || who.id}</strong>. The page needs <code className="font-mono text-[12.5px]">{page.needs}</code>, which none of your roles gives you. Ask an administrator for a role that does; it takes effect at once.
        </p>
        {who.principalId && <Command text={`loopback access explain ${page.needs} --${who.principalId.startsWith("usr_") ? "user" : "service-account"} ${who.principalId}`} />}
      </Empty>
    </Page>
  );
}

function NavLinks({ close }: { close: () => void }) {
  const { may } = useSession();
  const at = useLocation({ select: (l) => l.pathname });
  const here = pageAt(at);
  return (
    <ul className="flex flex-col gap-0.5">
      {groups.map((g) => {
        const first = g.pages.find((p) => may(p.needs));
        if (!first) return null;
        const current = here && g.pages.includes(here);
        return (
          <li key={g.label}>
            <Link to={first.to} search={((old: { in?: string }) => ({ in: old.in })) as never} onClick={close} aria-current={current ? (at === here.to ? "page" : true) : undefined} className={cx("flex h-8 items-center rounded-md px-2.5", current ? "bg-accent-wash font-medium text-accent" : "hover:bg-sunk")}>
              <span className="flex-1">{g.label}</span>
              {g === grants && (
                <Suspense>
                  <Count />
                </Suspense>
              )}
            </Link>
          </li>
        );
      })}
    </ul>
  );
}

function PlaceChooser() {
  const { place, places, choose } = usePlace();
  if (places.length < 2) {
    return place ? (
      <p className="truncate px-2 text-[12px] text-soft" title={place.path}>
        {place.label}
      </p>
    ) : null;
  }
  return (
    <select name="workspace" aria-label="workspace" value={place?.path ?? ""} onChange={(e) => choose(e.target.value)} className="h-8 rounded-md border border-edge/50 bg-card px-2 text-[13px] hover:border-edge">
      <option value="">All workspaces</option>
      {places.map((p) => (
        <option key={p.id} value={p.path}>
          {p.label}
        </option>
      ))}
    </select>
  );
}

const said = { live: "live", connecting: "reconnecting…", offline: "this computer is offline", barred: "no host is yours to see" };

function Foot() {
  const { who, leave } = useSession();
  const { connection } = useLive();
  const [chosen, setChosen] = useState<Theme>(theme());
  return (
    <div className="flex flex-col gap-2 border-t border-line px-2 pt-3 text-[12px] text-soft">
      <p role="status" className={cx("flex items-center gap-1.5", connection === "live" ? "text-good" : "text-warn")}>
        <span aria-hidden className={cx("size-2 rounded-full bg-current", connection === "connecting" && "animate-pulse")} />
        {said[connection]}
      </p>
      {who.signIn ? (
        <Link to={paths.account} className="truncate hover:underline" title={who.id}>
          {who.name}
        </Link>
      ) : (
        <p className="truncate" title={who.id}>
          {who.name}
        </p>
      )}
      <div className="flex items-center gap-2">
        <select
          name="theme"
          aria-label="theme"
          value={chosen}
          onChange={(e) => {
            const t = e.target.value as Theme;
            setChosen(t);
            applyTheme(t);
          }}
          className="h-7 flex-1 rounded-md border border-edge/50 bg-card px-1.5 text-ink"
        >
          <option value="system">System</option>
          <option value="light">Day</option>
          <option value="dark">Night</option>
        </select>
        <button type="button" className="text-accent hover:underline" onClick={() => void leave()}>
          Sign out
        </button>
      </div>
      <p>Loopback {who.serverVersion}</p>
    </div>
  );
}
