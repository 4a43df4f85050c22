// A link by which somebody comes in for the first time: they make a passkey, or sign in at a provider as whom it is for.
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState, type FormEvent } from "react";
import { api, leaveInvited } from "../api/client";
import { comeIn, without } from "../api/passkey";
import { Ago, Button, Field, Input, Problem, Spinner } from "../ui/basics";
import { Wordmark } from "./session";

export function Invite({ secret, done }: { secret: string; done: () => void }) {
  useEffect(() => {
    document.title = "Invitation · Loopback";
  }, []);
  return (
    <main className="grid min-h-dvh place-items-center p-4">
      <div className="w-full max-w-sm">
        <Wordmark />
        <div className="mt-6 rounded-xl border border-line bg-card p-6">
          <Invited secret={secret} done={done} />
        </div>
      </div>
    </main>
  );
}

/** What somebody sees who has an invitation. It is opened anew for each try: a ceremony is good once. */
export function Invited({ secret, done }: { secret: string; done: () => void }) {
  const ways = useQuery({ queryKey: ["ways in"], queryFn: () => api.signIns.listSignInMethods({}), staleTime: 60_000 });
  const opened = useQuery({ queryKey: ["invitation", secret], queryFn: () => api.invitations.openInvitation({ invitationSecret: secret }), retry: false, staleTime: Infinity, gcTime: 0 });
  const [name, setName] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const unavailable = ways.data && without(ways.data.passkeyDomain, ways.data.url);
  const providers = ways.data?.providers ?? [];
  const [going, setGoing] = useState("");
  async function byProvider(id: string) {
    setGoing(id);
    setError(undefined);
    try {
      await leaveInvited(id, secret);
    } catch (problem) {
      setError(problem);
      setGoing("");
    }
  }
  async function submit(e: FormEvent) {
    e.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      const begun = await api.invitations.openInvitation({ invitationSecret: secret });
      await comeIn(secret, begun.ceremony!, name.trim());
      done();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  }
  if (opened.isPending || ways.isPending)
    return (
      <div role="status" aria-label="loading" className="grid place-items-center p-6 text-accent">
        <Spinner />
      </div>
    );
  if (!opened.data || (unavailable && providers.length === 0)) return <Problem error={opened.error ?? unavailable} />;
  return (
    <div className="flex flex-col gap-4">
      <h1 className="text-[16px] font-semibold wrap-anywhere">Welcome, {opened.data.name}</h1>
      {unavailable ? (
        <p>
          Sign in as whom this is for. It works once, and ends <Ago at={opened.data.expiresAt} />.
        </p>
      ) : (
        <form className="flex flex-col gap-4" onSubmit={(e) => void submit(e)}>
          <p>
            Make a passkey: from then on you sign in by finger, face or PIN. This works once, and ends <Ago at={opened.data.expiresAt} />.
          </p>
          <Field label="Name of the passkey" hint="The device or the account that keeps it.">
            {(at) => <Input {...at} autoFocus required maxLength={100} autoComplete="off" placeholder="work laptop" value={name} onChange={(e) => setName(e.target.value)} />}
          </Field>
          <Button type="submit" kind="primary" busy={busy} className="h-9">
            Make passkey and sign in
          </Button>
        </form>
      )}
      {error !== undefined && <Problem error={error} />}
      {providers.length > 0 && (
        <>
          {!unavailable && <p className="flex items-center gap-3 text-[12px] text-soft before:h-px before:flex-1 before:bg-line after:h-px after:flex-1 after:bg-line">or</p>}
          <div className="flex flex-col gap-2">
            {providers.map((p) => (
              <Button key={p.id} kind={unavailable && providers.length === 1 ? "primary" : "plain"} busy={going === p.id} title={p.name} className="h-9 min-w-0" onClick={() => void byProvider(p.id)}>
                <span className="min-w-0 truncate">Continue with {p.name}</span>
              </Button>
            ))}
          </div>
          <p className="text-[12px] text-soft">The provider has to say that you are the person whom this is for.</p>
        </>
      )}
    </div>
  );
}
