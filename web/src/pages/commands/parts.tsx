// What a command is, as people read it.
import type { ExecCommand } from "../../api/gen/loopback/v1/exec_pb";
import { formatDuration, seconds } from "../../api/duration";
import { Facts } from "../../ui/basics";
import { line } from "../words";

/** The script, or the program with its arguments. */
export function textOf(c: ExecCommand | undefined): string {
  return c?.shell ? c.arguments.join(" ") : line(c?.arguments ?? []);
}

export function Script({ of, label }: { of: ExecCommand | undefined; label?: string }) {
  return (
    <pre tabIndex={0} aria-label={label ?? (of?.shell ? "script" : "command")} dir="ltr" className="max-h-96 overflow-auto rounded-md border border-line bg-sunk p-2 font-mono text-[12.5px] whitespace-pre-wrap wrap-anywhere">
      {textOf(of)}
    </pre>
  );
}

/** Whole, with who runs it and how long it may take. */
export function WhatItRuns({ of }: { of: ExecCommand | undefined }) {
  return (
    <div className="flex flex-col gap-3">
      <Script of={of} />
      <Facts
        of={[
          ["Read by", of?.shell ? "/bin/sh on the host" : "no shell: program and arguments as they are"],
          ["Program", !of?.shell && <span key="p" className="font-mono text-[12.5px]">{of?.arguments[0]}</span>],
          ["Arguments", !of?.shell && of && of.arguments.length > 1 && <Arguments key="a" of={of.arguments.slice(1)} />],
          ["As", of?.user || "root"],
          ["Ended on a host after", of?.timeout && formatDuration(seconds(of.timeout) ?? 0)],
        ]}
      />
    </div>
  );
}

function Arguments({ of }: { of: string[] }) {
  return (
    <ol className="flex flex-wrap gap-1">
      {of.map((a, i) => (
        <li key={i} dir="ltr" className="rounded border border-line bg-sunk px-1.5 font-mono text-[12.5px] wrap-anywhere whitespace-pre-wrap">
          {a || "''"}
        </li>
      ))}
    </ol>
  );
}
