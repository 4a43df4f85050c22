// A command line that asks to be signed in: what it shows is checked, and it is approved or denied.
import { useQuery } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { api } from "../api/client";
import { stepUp } from "../api/passkey";
import { deviceRoute } from "../app/router";
import { useSession } from "../app/session";
import { Ago, Button, Card, Facts, Field, Input, Page, Problem, Waiting } from "../ui/basics";

export function DevicePage() {
  const { code } = deviceRoute.useSearch();
  const go = deviceRoute.useNavigate();
  const [typed, setTyped] = useState("");
  return (
    <Page title="Sign in a device" about="A command line that asks for it shows a code.">
      {code ? (
        <Decide key={code} code={code} again={() => void go({ search: {} })} />
      ) : (
        <Card>
          <form
            className="flex max-w-sm flex-col gap-4"
            onSubmit={(e: FormEvent) => {
              e.preventDefault();
              void go({ search: { code: typed.trim() } });
            }}
          >
            <Field label="Code">{(at) => <Input {...at} autoFocus required autoComplete="off" autoCapitalize="characters" spellCheck={false} placeholder="BCDF-GHJK" value={typed} onChange={(e) => setTyped(e.target.value)} />}</Field>
            <div>
              <Button type="submit" kind="primary">
                Continue
              </Button>
            </div>
          </form>
        </Card>
      )}
    </Page>
  );
}

function Decide({ code, again }: { code: string; again: () => void }) {
  const { who } = useSession();
  const found = useQuery({ queryKey: ["device", code], queryFn: () => api.signIns.getDevice({ code }), retry: false, staleTime: Infinity });
  const [busy, setBusy] = useState<"approve" | "deny">();
  const [done, setDone] = useState<"approve" | "deny">();
  const [error, setError] = useState<unknown>();
  async function decide(what: "approve" | "deny") {
    setBusy(what);
    setError(undefined);
    try {
      if (what === "approve" && found.data?.stepUp) await stepUp(); // for this very request: one that was shown before does not count
      await api.signIns.decideDevice({ code, approve: what === "approve" });
      setDone(what);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(undefined);
    }
  }
  if (found.isPending) return <Waiting rows={3} />;
  if (!found.data)
    return (
      <div className="flex flex-col items-start gap-4">
        <Problem error={found.error} />
        <Button onClick={again}>Type a code</Button>
      </div>
    );
  if (done)
    return (
      <Card>
        <p role="status" className="font-medium">
          {done === "approve" ? (found.data.stepUp ? "Shown. " : "Approved. ") + "The command line goes on by itself; you can close this page." : "Denied. The command line gets nothing."}
        </p>
      </Card>
    );
  const d = found.data;
  return (
    <Card>
      <div className="flex flex-col gap-4">
        <p>
          {d.stepUp && "It asks for your passkey, for something that takes one. "}Approve only what you began yourself, just now, on a machine that you know. It will act as <strong>{who.name}</strong>.
        </p>
        <Facts
          of={[
            ["Code", <span className="font-mono text-[15px] tracking-wide">{code.toUpperCase()}</span>],
            ["Asked from", <span className="font-mono">{d.address || "unknown"}</span>],
            ["Calls itself", d.agent || "nothing"],
            ["Asked", <Ago at={d.createdAt} />],
            ["You are at", <span className="font-mono">{who.signIn?.address || "unknown"}</span>],
          ]}
        />
        {error !== undefined && <Problem error={error} />}
        <div className="flex gap-2">
          <Button kind="primary" busy={busy === "approve"} disabled={busy !== undefined} onClick={() => void decide("approve")}>
            {d.stepUp ? "Show passkey" : "Approve"}
          </Button>
          <Button kind="danger" busy={busy === "deny"} disabled={busy !== undefined} onClick={() => void decide("deny")}>
            Deny
          </Button>
        </div>
      </div>
    </Card>
  );
}
