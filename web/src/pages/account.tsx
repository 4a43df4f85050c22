// Where one is signed in, and ending that.
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, signOut } from "../api/client";
import type { SignIn } from "../api/gen/loopback/v1/signin_pb";
import { usePages } from "../app/list";
import { useSession } from "../app/session";
import { Ago, Button, Card, Dialog, Empty, Page, Problem, Waiting } from "../ui/basics";
import { Table, type Column } from "../ui/table";

const said: Record<string, string> = { api_key: "API key", oidc: "identity provider", passkey: "passkey", bootstrap: "one-time code", device: "approved device" };

/** What a browser says of itself, as people would say it; the whole is in the title. */
function programOf(agent: string): string {
  if (!agent.startsWith("Mozilla/")) return agent || "unknown";
  const find = (names: [RegExp, string][]) => names.find(([sign]) => sign.test(agent))?.[1];
  const browser = find([[/Edg\//, "Edge"], [/OPR\//, "Opera"], [/Firefox\//, "Firefox"], [/Chrom(e|ium)\/|HeadlessChrome/, "Chrome"], [/Safari\//, "Safari"]]);
  const system = find([[/Windows/, "Windows"], [/iPhone|iPad/, "iOS"], [/Android/, "Android"], [/Mac OS X/, "macOS"], [/CrOS/, "ChromeOS"], [/Linux/, "Linux"]]);
  return browser ? `${browser}${system ? ` on ${system}` : ""}` : agent;
}

export function Account() {
  const queries = useQueryClient();
  const { who, leave } = useSession();
  const [all, setAll] = useState(false);
  const [busy, setBusy] = useState("");
  const [error, setError] = useState<unknown>();
  const list = usePages(["my sign-ins"], (token) => api.signIns.listMySignIns({ page: { size: 200, token } }));
  async function end(s: SignIn) {
    if (s.id === who.id) return leave();
    setBusy(s.id);
    setError(undefined);
    try {
      await api.signIns.signOut({ signIn: s.id });
      await queries.invalidateQueries({ queryKey: ["my sign-ins"] });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy("");
    }
  }
  const columns: Column<SignIn>[] = [
    {
      key: "program",
      head: "Program",
      width: "minmax(10rem,3fr)",
      cell: (s) => (
        <span className="truncate" title={s.agent}>
          {s.id === who.id && <strong className="mr-2 font-medium">this one</strong>}
          {programOf(s.agent)}
        </span>
      ),
    },
    { key: "method", head: "By", width: "10.5rem", narrow: "hide", cell: (s) => said[s.method] ?? s.method },
    { key: "from", head: "From", width: "9rem", narrow: "hide", cell: (s) => <span className="font-mono text-[12.5px]">{s.address}</span> },
    { key: "used", head: "Last used", width: "7rem", cell: (s) => <Ago at={s.lastUsedAt} /> },
    { key: "ends", head: "Ends", width: "7rem", narrow: "hide", cell: (s) => <Ago at={s.expiresAt} /> },
    {
      key: "act",
      head: <span className="sr-only">acts</span>,
      width: "7rem",
      cell: (s) => (
        <Button busy={busy === s.id} onClick={() => void end(s)}>
          Sign out
        </Button>
      ),
    },
  ];
  return (
    <Page
      title="Your sign-ins"
      about="Browsers and command lines that act as you."
      actions={
        <Button kind="danger" onClick={() => setAll(true)}>
          Sign out everywhere
        </Button>
      }
    >
      {error !== undefined && <Problem error={error} />}
      {list.error && <Problem error={list.error} retry={list.again} />}
      <Card flush>{list.pending ? <Waiting /> : <Table label="Your sign-ins" columns={columns} rows={list.rows} id={(s) => s.id} more={list.more} empty={<Empty title="None" />} />}</Card>
      {all && (
        <Dialog title="Sign out everywhere" open close={() => setAll(false)}>
          <p>Every browser and command line that acts as you is turned away at once, this one included. API keys stay.</p>
          <div className="flex justify-end gap-2">
            <Button onClick={() => setAll(false)}>Cancel</Button>
            <Button
              kind="danger"
              onClick={() => {
                signOut(true)
                  .then(() => window.location.assign("/"))
                  .catch((problem: unknown) => {
                    setError(problem);
                    setAll(false);
                  });
              }}
            >
              Sign out everywhere
            </Button>
          </div>
        </Dialog>
      )}
    </Page>
  );
}
