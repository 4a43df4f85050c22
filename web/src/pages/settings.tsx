// How agents of a workspace behave. Two people who edit at once: the second is shown both.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, troubleOf } from "../api/client";
import { formatDuration, parseDuration, seconds, toProto } from "../api/duration";
import { SettingsService, type AgentSettings, type Settings as Kept } from "../api/gen/loopback/v1/settings_pb";
import { command } from "../api/shell";
import { usePlace } from "../app/place";
import { useSession } from "../app/session";
import { Button, Card, Field, Input, Page, Problem, Select, Waiting } from "../ui/basics";
import { Both, call, Form } from "../ui/form";
import { Replicas } from "./replicas";

export function Settings() {
  const { place, places, choose } = usePlace();
  return (
    <Page title="Settings" about={place ? `of agents in ${place.label}` : "of agents in a workspace"}>
      {!place && places.length > 1 ? (
        <Card title="Which workspace?">
          <ul className="flex flex-wrap gap-2">
            {places.map((p) => (
              <li key={p.id}>
                <Button onClick={() => choose(p.path)}>{p.label}</Button>
              </li>
            ))}
          </ul>
        </Card>
      ) : (
        place && <Load key={place.id} workspace={place.id} path={place.path} />
      )}
      <Replicas />
    </Page>
  );
}

function Load({ workspace, path }: { workspace: string; path: string }) {
  const kept = useQuery({ queryKey: ["settings", workspace], queryFn: () => api.settings.getSettings({ workspace }) });
  if (kept.error && !kept.data) return <Problem error={kept.error} retry={() => void kept.refetch()} />;
  if (!kept.data) return <Waiting rows={3} />;
  return <Edit kept={kept.data} workspace={workspace} path={path} />;
}

interface Draft {
  min: string;
  max: string;
  log: string;
}

function draftOf(s: AgentSettings | undefined): Draft {
  const span = (d: AgentSettings["heartbeatMin"]) => (d ? formatDuration(seconds(d) ?? 0) : "");
  return { min: span(s?.heartbeatMin), max: span(s?.heartbeatMax), log: s?.logLevel ?? "" };
}

const names: Record<keyof Draft, string> = { min: "Shortest heartbeat", max: "Longest heartbeat", log: "Log level" };

function Edit({ kept, workspace, path }: { kept: Kept; workspace: string; path: string }) {
  const queries = useQueryClient();
  const { why } = useSession();
  const [base, setBase] = useState(kept); // what the draft was made from
  const [draft, setDraft] = useState<Draft>(() => draftOf(kept.own));
  const [theirs, setTheirs] = useState<Kept>();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [saved, setSaved] = useState(false);
  const own = draftOf(base.own);
  const effective = draftOf(base.effective);
  const wrong = (text: string) => (text !== "" && parseDuration(text) === undefined ? "write it like 10s or 1m" : undefined);
  const changed = (Object.keys(draft) as (keyof Draft)[]).filter((k) => draft[k] !== own[k]);
  const set = (change: Partial<Draft>) => {
    setSaved(false);
    setDraft((old) => ({ ...old, ...change }));
  };
  const span = (text: string) => (text === "" ? undefined : toProto(parseDuration(text) ?? 0));
  const request = (over: Kept) => ({ workspace, revision: over.revision, settings: { heartbeatMin: span(draft.min), heartbeatMax: span(draft.max), logLevel: draft.log, modules: over.own?.modules } });
  async function save(over: Kept) {
    setBusy(true);
    setError(undefined);
    try {
      if (over.revision === 0n) {
        // Nothing was set here before, and no revision says so: look whether that is still true.
        const there = await api.settings.getSettings({ workspace });
        if (there.revision !== 0n) return setTheirs(there);
      }
      const now = await api.settings.setSettings(request(over));
      queries.setQueryData(["settings", workspace], now);
      setBase(now);
      setDraft(draftOf(now.own));
      setTheirs(undefined);
      setSaved(true);
    } catch (problem) {
      const now = await api.settings.getSettings({ workspace }).catch(() => undefined);
      if (now && now.revision !== over.revision) setTheirs(now);
      else setError(problem);
      if (troubleOf(problem).violations.length) setError(problem);
    } finally {
      setBusy(false);
    }
  }
  const unset = [!draft.min && own.min && "heartbeat-min", !draft.max && own.max && "heartbeat-max", !draft.log && own.log && "log-level"].filter((f): f is string => typeof f === "string" && f !== "");
  const flags: Parameters<typeof command>[1] = [["workspace", path], ["heartbeat-min", draft.min], ["heartbeat-max", draft.max], ["log-level", draft.log], ["unset", unset]];
  return (
    <Card title="Agents">
      <Form
        className="max-w-xl"
        submit={() => {
          if (!why("settings.set") && !wrong(draft.min) && !wrong(draft.max)) void save(base);
        }}
        error={error}
        same={{ cli: command("settings set", flags), api: call(SettingsService.method.setSettings, request(base)) }}
        buttons={
          <div className="flex items-center gap-3">
            <Button type="submit" kind="primary" busy={busy} why={why("settings.set")} disabled={changed.length === 0 || wrong(draft.min) !== undefined || wrong(draft.max) !== undefined}>
              Save
            </Button>
            <span role="status" className="text-good">
              {saved && "Saved. Agents get it within seconds."}
            </span>
          </div>
        }
      >
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label={names.min} hint={draft.min === "" ? `not set here: ${effective.min}` : "no agent reports more often"} error={wrong(draft.min)}>
            {(at) => <Input {...at} value={draft.min} placeholder={effective.min} onChange={(e) => set({ min: e.target.value })} />}
          </Field>
          <Field label={names.max} hint={draft.max === "" ? `not set here: ${effective.max}` : "bounds how soon silence is noticed"} error={wrong(draft.max)}>
            {(at) => <Input {...at} value={draft.max} placeholder={effective.max} onChange={(e) => set({ max: e.target.value })} />}
          </Field>
        </div>
        <Field label={names.log}>
          {(at) => (
            <Select {...at} value={draft.log} onChange={(e) => set({ log: e.target.value })}>
              <option value="">{`not set here: ${effective.log}`}</option>
              {["debug", "info", "warn", "error"].map((l) => (
                <option key={l}>{l}</option>
              ))}
            </Select>
          )}
        </Field>
        {theirs && (
          <Both of={(Object.keys(names) as (keyof Draft)[]).map((k) => ({ name: names[k], theirs: draftOf(theirs.own)[k], mine: draft[k] }))} none="not set">
            <Button
              onClick={() => {
                setBase(theirs);
                setDraft(draftOf(theirs.own));
                queries.setQueryData(["settings", workspace], theirs);
                setTheirs(undefined);
              }}
            >
              Take theirs
            </Button>
            <Button kind="primary" busy={busy} onClick={() => void save(theirs)}>
              Save mine over it
            </Button>
          </Both>
        )}
      </Form>
    </Card>
  );
}
