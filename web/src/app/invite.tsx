// A link by which somebody comes in for the first time: they make a passkey, and are signed in.
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState, type FormEvent } from "react";
import { api } from "../api/client";
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
  if (unavailable || !opened.data) return <Problem error={unavailable ?? opened.error} />;
  return (
    <form className="flex flex-col gap-4" onSubmit={(e) => void submit(e)}>
      <h1 className="text-[16px] font-semibold wrap-anywhere">Welcome, {opened.data.name}</h1>
      <p>Make a passkey: from then on you sign in by finger, face or PIN. This works once, and ends <Ago at={opened.data.expiresAt} />.</p>
      <Field label="Name of the passkey" hint="The device or the account that keeps it.">
        {(at) => <Input {...at} autoFocus required maxLength={100} autoComplete="off" placeholder="work laptop" value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      {error !== undefined && <Problem error={error} />}
      <Button type="submit" kind="primary" busy={busy} className="h-9">
        Make passkey and sign in
      </Button>
    </form>
  );
}
