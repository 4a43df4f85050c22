// Who is signed in, and what they may do.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, lazy, Suspense, useContext, useEffect, useRef, useState, type FormEvent, type ReactNode } from "react";
import { api, leaveFor, onSignedOut, onStepUp, refusal, signIn, signInBeside, signOut, troubleOf, type Trouble } from "../api/client";
import { signInByPasskey, stepUp, without } from "../api/passkey";
import { Invite, Invited } from "./invite";
import type { WhoAmIResponse } from "../api/gen/loopback/v1/apikey_pb";
import { Button, buttonClass, Copy, Dialog, Field, Input, Problem, Spinner } from "../ui/basics";

export interface Session {
  who: WhoAmIResponse;
  /** Whether they hold the permission over anything at all; the server decides in the end. */
  may: (permission: string) => boolean;
  /** Why not, for a button's title; empty where one may. */
  why: (permission: string) => string;
  leave: () => Promise<void>;
}

const SessionContext = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("nobody is signed in");
  return session;
}

/** The string of an invitation whose link was opened; it is taken out of the address at once. */
function invitation(): string {
  if (window.location.pathname !== "/invite") return "";
  const secret = window.location.hash.slice(1);
  window.history.replaceState(null, "", "/invite");
  return secret;
}
const invitedWith = invitation();

/** The link of a guest of a shell that was opened; its string is taken out of the address at once. */
function guest(): { session: string; secret: string } | undefined {
  const session = /^\/guest\/([^/]+)$/.exec(window.location.pathname)?.[1];
  if (!session) return undefined;
  const secret = window.location.hash.slice(1);
  window.history.replaceState(null, "", window.location.pathname);
  return { session, secret };
}
const guestOf = guest();
const GuestPage = lazy(() => import("../pages/guest").then((m) => ({ default: m.GuestPage })));

const cameBack = window.location.pathname === "/signed-in";

export function SignedIn({ children }: { children: ReactNode }) {
  if (cameBack) return <Back />;
  if (guestOf)
    return (
      <Suspense fallback={<Opening />}>
        <GuestPage {...guestOf} />
      </Suspense>
    );
  if (invitedWith) return <Invite secret={invitedWith} done={() => window.location.replace("/")} />;
  return <SignedInPages>{children}</SignedInPages>;
}

function Opening() {
  return (
    <div role="status" aria-label="loading" className="grid min-h-dvh place-items-center text-accent">
      <Spinner />
    </div>
  );
}

function SignedInPages({ children }: { children: ReactNode }) {
  const queries = useQueryClient();
  const [over, setOver] = useState(false);
  const who = useQuery({ queryKey: ["who"], queryFn: () => api.session.whoAmI({}), retry: (n, e) => n < 5 && troubleOf(e).code === "unreachable", staleTime: Infinity });
  useEffect(() => onSignedOut(() => setOver(true)), []);
  if (who.isPending) return <Opening />;
  const again = async () => {
    await queries.resetQueries();
    setOver(false);
  };
  if (!who.data) {
    const trouble = troubleOf(who.error);
    return <SignIn done={again} first={trouble.code === "not_signed_in" ? undefined : trouble} />;
  }
  // A server from before it told so says only what the key is good for.
  const held = who.data.permissions.length > 0 ? who.data.permissions : who.data.grants.flatMap((g) => g.permissions);
  const holds = (permission: string) => held.includes("*") || held.includes(permission);
  const session: Session = {
    who: who.data,
    may: holds,
    why: (permission) => (holds(permission) ? "" : `you may not do this: it needs ${permission}`),
    leave: async () => {
      await signOut();
      queries.clear();
      window.location.assign("/");
    },
  };
  return (
    <SessionContext value={session}>
      {children}
      {/* The page stays as it is behind it: nothing that was typed is lost. */}
      <StepUp />
      {over && <SignInAgain done={async () => setOver(false)} />}
    </SessionContext>
  );
}

/** A dialog of the browser's own, since it has to be above every other one, a form with what was typed included. */
function SignInAgain({ done }: { done: () => Promise<void> }) {
  const queries = useQueryClient();
  return (
    <Dialog title="Your session has ended: sign in again" open must close={() => undefined}>
      <p className="text-soft">You go on where you were. What you typed is still there.</p>
      <div>
        <WaysIn
          beside
          done={async () => {
            await done();
            await queries.invalidateQueries();
          }}
        />
      </div>
    </Dialog>
  );
}

/** Where a sign-in at a provider ends that was begun beside a page. */
function Back() {
  useEffect(() => {
    document.title = "Signed in · Loopback";
  }, []);
  return (
    <main className="grid min-h-dvh place-items-center p-4">
      <div className="w-full max-w-sm">
        <Wordmark />
        <div className="mt-6 flex flex-col gap-4 rounded-xl border border-line bg-card p-6">
          <h1 className="text-[16px] font-semibold">You are signed in</h1>
          <p>The page that you came from goes on by itself. This one can be closed.</p>
          <a href="/" className={buttonClass()}>
            To the overview
          </a>
        </div>
      </div>
    </main>
  );
}

function SignIn({ done, first }: { done: () => Promise<void>; first: Trouble | undefined }) {
  const [refused] = useState(refusal);
  useEffect(() => {
    document.title = "Sign in · Loopback";
  }, []);
  return (
    <main className="grid min-h-dvh place-items-center p-4">
      <div className="w-full max-w-sm">
        <Wordmark />
        <div className="mt-6 rounded-xl border border-line bg-card p-6">
          <h1 className="mb-4 text-[16px] font-semibold">Sign in</h1>
          {first && (
            <div className="mb-4">
              <Problem error={first} retry={() => void done()} />
            </div>
          )}
          {refused && (
            <div className="mb-4">
              <Problem error={refused} />
            </div>
          )}
          <WaysIn done={done} />
        </div>
        <p className="mt-4 text-[12px] text-soft">
          First time? Somebody who may invite people (<code className="font-mono">loopback user invite NAME</code>, or People here) sends you a link. Until there is an administrator, each start of loopbackd prints a one-time code: enter that.
        </p>
      </div>
    </main>
  );
}

/** Every way in: passkey and providers, then a key. Beside a page that is to stay as it is, a provider's is in a page of its own. */
function WaysIn({ done, beside }: { done: () => Promise<void>; beside?: boolean }) {
  const offered = useQuery({ queryKey: ["ways in"], queryFn: () => api.signIns.listSignInMethods({}), staleTime: 60_000, retry: false });
  const [going, setGoing] = useState("");
  const [error, setError] = useState<unknown>();
  const unavailable = offered.data && without(offered.data.passkeyDomain, offered.data.url);
  const waits = useRef<AbortController>(undefined);
  useEffect(() => () => waits.current?.abort(), []);
  async function byProvider(id: string) {
    setGoing(id);
    if (!beside) return leaveFor(id);
    waits.current?.abort();
    const wait = (waits.current = new AbortController());
    await signInBeside(id, wait.signal);
    if (!wait.signal.aborted) await done();
  }
  async function byPasskey() {
    setGoing("passkey");
    setError(undefined);
    try {
      await signInByPasskey();
      await done();
    } catch (problem) {
      setError(problem);
    } finally {
      setGoing("");
    }
  }
  const providers = offered.data?.providers ?? [];
  // All at once: what comes late would push away what somebody is about to press.
  if (offered.isPending)
    return (
      <div role="status" aria-label="loading" className="grid place-items-center p-6 text-accent">
        <Spinner />
      </div>
    );
  return (
    <>
      {offered.data && (
        <>
          <div className="flex flex-col gap-2">
            {!unavailable && (
              <Button kind="primary" busy={going === "passkey"} onClick={() => void byPasskey()} className="h-9">
                Continue with a passkey
              </Button>
            )}
            {providers.map((p) => (
              <Button
                key={p.id}
                kind={unavailable && providers.length === 1 ? "primary" : "plain"}
                busy={going === p.id && !beside}
                title={p.name}
                className="h-9 min-w-0"
                onClick={() => void byProvider(p.id)}
              >
                <span className="min-w-0 truncate">Continue with {p.name}</span>
              </Button>
            ))}
          </div>
          {beside && going !== "" && going !== "passkey" && (
            <p role="status" className="mt-3 text-[12px] text-soft">
              Sign in on the page that has opened; this one goes on by itself then. If none has, press the button again.
            </p>
          )}
          {error !== undefined && (
            <div className="mt-3">
              <Problem error={error} />
            </div>
          )}
          {(!unavailable || providers.length > 0) && (
            <p className="my-4 flex items-center gap-3 text-[12px] text-soft before:h-px before:flex-1 before:bg-line after:h-px after:flex-1 after:bg-line">or</p>
          )}
        </>
      )}
      <SignInForm done={done} passkeys={offered.data !== undefined && !unavailable} plain={offered.data !== undefined && (!unavailable || providers.length > 0)} />
      {unavailable && (
        <p className="mt-4 text-[12px] text-soft">
          {unavailable.message} {unavailable.hint}
        </p>
      )}
    </>
  );
}

/** Asks for a passkey in place where a call needs a fresh one. The page stays as it is behind it. */
function StepUp() {
  const [ask, setAsk] = useState<{ done: () => void; give: () => void }>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  useEffect(
    () =>
      onStepUp((next) => {
        setError(undefined);
        setAsk(next);
      }),
    [],
  );
  const leave = () => {
    ask?.give();
    setAsk(undefined);
  };
  async function show() {
    setBusy(true);
    setError(undefined);
    try {
      await stepUp();
      ask?.done();
      setAsk(undefined);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  }
  if (!ask) return null;
  return (
    <Dialog title="Show that it is you" open close={leave}>
      <p>This takes your passkey, shown within the last minute. What you typed stays; it goes on by itself afterwards.</p>
      {error !== undefined && <Problem error={error} />}
      <div className="flex justify-end gap-2">
        <Button onClick={leave}>Cancel</Button>
        <Button kind="primary" busy={busy} onClick={() => void show()} autoFocus>
          Show passkey
        </Button>
      </div>
    </Dialog>
  );
}

export function Wordmark() {
  return (
    <p className="flex items-center gap-2 text-[17px] font-semibold tracking-tight">
      <img src="/icon.svg" alt="" className="size-6" />
      Loopback
    </p>
  );
}

function SignInForm({ done, plain, passkeys }: { done: () => Promise<void>; plain: boolean; passkeys: boolean }) {
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [made, setMade] = useState("");
  const [code, setCode] = useState(""); // one-time code of the first start: it is traded once they say for what
  const [welcome, setWelcome] = useState("");
  async function trade(invite: boolean) {
    setBusy(true);
    setError(undefined);
    try {
      const answer = await api.session.redeemBootstrapCode({ code, invite });
      if (invite) return setWelcome(answer.invitationSecret);
      await signIn(answer.secret);
      setMade(answer.secret);
    } catch (problem) {
      setCode("");
      setError(problem);
    } finally {
      setBusy(false);
    }
  }
  async function submit(e: FormEvent) {
    e.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      const given = text.trim();
      if (given.startsWith("lbk_")) {
        await signIn(given);
        await done();
      } else {
        setCode(given);
      }
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  }
  if (welcome) return <Invited secret={welcome} done={() => void done()} />;
  if (code) {
    return (
      <div className="flex flex-col gap-3">
        <p>
          With the one-time code you become the <strong>first administrator</strong>. How do you want to sign in from now on?
        </p>
        <Button kind="primary" className="h-9" busy={busy} why={passkeys ? undefined : "this page cannot have passkeys"} onClick={() => void trade(true)}>
          With a passkey
        </Button>
        <Button className="h-9" busy={busy} onClick={() => void trade(false)}>
          With an API key
        </Button>
      </div>
    );
  }
  if (made) {
    return (
      <div className="flex flex-col gap-3">
        <p>
          You are the first administrator. This is your API key, shown <strong>once</strong>: keep it where you keep passwords.
        </p>
        <pre className="rounded-md border border-line bg-sunk p-2 font-mono text-[12px] break-all whitespace-pre-wrap">{made}</pre>
        <div className="flex gap-2">
          <Copy text={made} />
          <Button
            kind="primary"
            onClick={() => {
              setMade("");
              setText("");
              void done();
            }}
          >
            I have kept it
          </Button>
        </div>
      </div>
    );
  }
  return (
    <form className="flex flex-col gap-4" onSubmit={(e) => void submit(e)}>
      <Field label="API key or one-time code">{(at) => <Input {...at} type="password" autoFocus={!plain} required placeholder="lbk_…" value={text} onChange={(e) => setText(e.target.value)} />}</Field>
      {error !== undefined && <Problem error={error} />}
      <Button type="submit" kind={plain ? "plain" : "primary"} busy={busy} className="h-9">
        Sign in
      </Button>
    </form>
  );
}
