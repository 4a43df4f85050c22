// The processes that are the control plane together, for whoever may see them.
import { useQuery } from "@tanstack/react-query";
import { api, troubleOf } from "../api/client";
import { seconds } from "../api/duration";
import type { Replica } from "../api/gen/loopback/v1/replica_pb";
import { useSession } from "../app/session";
import { Ago, Card, Problem, State, Waiting } from "../ui/basics";

const hints: Record<string, string> = {
  replica_gone: "Its lease ended without a word. Look at its machine.",
  clock_apart: "Its clock and the database's differ by more than 5 s.",
  bus_cut: "Its bus does not reach all of the others.",
  peer_cut: "The replica that answers you gets no answer from it.",
  keyset_old: "Others go by a newer keyset.",
};

function clock(r: Replica): string {
  const ahead = seconds(r.clockOffset);
  if (ahead === undefined) return "";
  return `${ahead < 0 ? "−" : "+"}${Math.abs(ahead) < 1 ? `${Math.round(Math.abs(ahead) * 1000)} ms` : `${Math.abs(ahead).toFixed(1)} s`}`;
}

export function Replicas() {
  const { may } = useSession();
  const seen = useQuery({ queryKey: ["replicas"], queryFn: () => api.replicas.listReplicas({}), enabled: may("replicas.read"), refetchInterval: 5_000 });
  // Held in one place only it shows nothing: replicas belong to the whole deployment.
  if (!may("replicas.read") || (seen.error && troubleOf(seen.error).code === "permission_denied")) return null;
  return (
    <Card title="Replicas of the control plane" flush>
      {seen.error && !seen.data ? (
        <Problem error={seen.error} retry={() => void seen.refetch()} />
      ) : !seen.data ? (
        <Waiting rows={2} />
      ) : (
        <div tabIndex={0} role="region" aria-label="replicas" className="overflow-x-auto focus-visible:-outline-offset-2">
          <table aria-label="replicas" className="w-full text-left [&_td]:px-3 [&_td]:py-2 [&_td]:align-top [&_th]:px-3 [&_th]:py-2">
            <thead className="border-b border-line text-[12px] text-soft">
              <tr>
                {["Name", "State", "Version", "Address", "Since", "Last seen", "Links", "Does for all", "Bus", "Clock"].map((h) => (
                  <th key={h} scope="col" className="font-normal whitespace-nowrap">
                    {h}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {seen.data.items.map((r) => (
                <tr key={r.name} className="border-b border-line last:border-0">
                  <th scope="row" className="font-medium whitespace-nowrap">
                    {r.name}
                    {r.answering && <span className="font-normal text-soft"> (answers you)</span>}
                  </th>
                  <td>
                    <State of={r.state} />
                    {r.troubles.map((t) => (
                      <p key={t} className="text-[12.5px] text-warn">
                        {hints[t] ?? t}
                      </p>
                    ))}
                  </td>
                  <td className="font-mono text-[12.5px]">{r.version}</td>
                  <td className="font-mono text-[12.5px]">{r.address}</td>
                  <td className="whitespace-nowrap">
                    <Ago at={r.startedAt} />
                  </td>
                  <td className="whitespace-nowrap">
                    <Ago at={r.seenAt} />
                  </td>
                  <td className="tabular-nums">{r.links.toString()}</td>
                  <td>{r.leases.join(", ")}</td>
                  <td className="tabular-nums">{r.busPeers?.toString()}</td>
                  <td className="whitespace-nowrap tabular-nums">{clock(r)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}
