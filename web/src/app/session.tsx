// Who is signed in, and what they may do.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useState, type FormEvent, type ReactNode } from "react";
import { api, leaveFor, onSignedOut, refusal, signIn, signOut, troubleOf, type Trouble } from "../api/client";
import type { WhoAmIResponse } from "../api/gen/loopback/v1/apikey_pb";
import { Button, Copy, Field, Input, Problem, Spinner } from "../ui/basics";

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

export function SignedIn({ children }: { children: ReactNode }) {
  const queries = useQueryClient();
  const [over, setOver] = useState(false);
  const who = useQuery({ queryKey: ["who"], queryFn: () => api.session.whoAmI({}), retry: (n, e) => n < 5 && troubleOf(e).code === "unreachable", staleTime: Infinity });
  useEffect(() => onSignedOut(() => setOver(true)), []);
  if (who.isPending) {
    return (
      <div role="status" aria-label="loading" className="grid min-h-dvh place-items-center text-accent">
        <Spinner />
      </div>
    );
  }
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
      {over && <SignInAgain done={async () => setOver(false)} />}
    </SessionContext>
  );
}

function SignInAgain({ done }: { done: () => Promise<void> }) {
  const queries = useQueryClient();
  return (
    <div role="dialog" aria-modal aria-label="Sign in again" className="fixed inset-0 z-50 grid place-items-center bg-black/50 p-4">
      <div className="w-full max-w-sm rounded-xl border border-line bg-card p-6 shadow-2xl">
        <h2 className="text-[16px] font-semibold">Your session has ended</h2>
        <p className="mb-4 text-soft">Sign in again to go on where you were. What you typed is still there.</p>
        <Providers />
        <SignInForm
          done={async () => {
            await done();
            await queries.invalidateQueries();
          }}
        />
      </div>
    </div>
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
          <Providers />
          <SignInForm done={done} />
        </div>
        <p className="mt-4 text-[12px] text-soft">
          First time? Until there is an administrator, each start of loopbackd prints a one-time code: enter that. Later,{" "}
          <code className="font-mono">loopback apikey create NAME --permission &apos;*&apos;</code> makes a key.
        </p>
      </div>
    </main>
  );
}

/** The identity providers that let people in; nothing where there are none, or while they are not known. */
function Providers() {
  const offered = useQuery({ queryKey: ["ways in"], queryFn: () => api.signIns.listSignInMethods({}), staleTime: 60_000 });
  const [left, setLeft] = useState("");
  if (!offered.data?.providers.length) return null;
  return (
    <>
      <div className="flex flex-col gap-2">
        {offered.data.providers.map((p) => (
          <Button
            key={p.id}
            kind="primary"
            busy={left === p.id}
            onClick={() => {
              setLeft(p.id);
              leaveFor(p.id);
            }}
          >
            Continue with {p.name}
          </Button>
        ))}
      </div>
      <p className="my-4 flex items-center gap-3 text-[12px] text-soft before:h-px before:flex-1 before:bg-line after:h-px after:flex-1 after:bg-line">or</p>
    </>
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

function SignInForm({ done }: { done: () => Promise<void> }) {
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [made, setMade] = useState("");
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
        const answer = await api.session.redeemBootstrapCode({ code: given });
        await signIn(answer.secret);
        setMade(answer.secret);
      }
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
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
      <Field label="API key or one-time code">{(at) => <Input {...at} type="password" autoFocus required placeholder="lbk_…" value={text} onChange={(e) => setText(e.target.value)} />}</Field>
      {error !== undefined && <Problem error={error} />}
      <Button type="submit" kind="primary" busy={busy}>
        Sign in
      </Button>
    </form>
  );
}
