// Has a host tell what it knows of itself, and gives what it told to whoever asked.
import { useEffect, useRef, useState } from "react";
import { fetchBundle, files } from "../api/files";
import { FileService, type FileTransfer } from "../api/gen/loopback/v1/file_pb";
import type { Host } from "../api/gen/loopback/v1/host_pb";
import { command } from "../api/shell";
import { useSession } from "../app/session";
import { Button, buttonClass, Dialog, Problem, Spinner } from "../ui/basics";
import { call, FormDialog, useAct } from "../ui/form";

function sized(bytes: number): string {
  return bytes < 1024 ? `${bytes} B` : bytes < 1 << 20 ? `${Math.round(bytes / 1024)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

export function DiagnoseDialog({ h, close }: { h: Host; close: () => void }) {
  const act = useAct();
  const [transfer, setTransfer] = useState<FileTransfer>();
  const request = { host: h.id };
  if (transfer) return <Fetching h={h} transfer={transfer} again={() => setTransfer(undefined)} close={close} />;
  return (
    <FormDialog
      title={`Diagnose ${h.name}`}
      close={close}
      act={act}
      label="Diagnose"
      submit={() => void act.run(async () => setTransfer(await files.startDiagnosis({ ...request, requestId: crypto.randomUUID() })))}
      same={{ cli: command(`host diagnose ${h.id}`), api: call(FileService.method.startDiagnosis, request) }}
    >
      <p>The host packs what it knows of itself: its agent's state, what the agent's own checks find, settings and journal, network and system. It takes up to half a minute.</p>
      <p className="text-soft">Tokens, keys, and what looks like a secret are taken out on the host. Show a bundle to those to whom you would show the host's logs.</p>
    </FormDialog>
  );
}

function Fetching({ h, transfer, again, close }: { h: Host; transfer: FileTransfer; again: () => void; close: () => void }) {
  const { may } = useSession();
  const [come, setCome] = useState(0);
  const [bundle, setBundle] = useState<{ address: string; size: number }>();
  const [error, setError] = useState<unknown>();
  const checked = may("file.read");
  const ends = useRef(may("file.cancel")); // whoever leaves it ends it, so that nothing of it lies about on the host
  useEffect(() => {
    const stop = new AbortController();
    let address = "";
    let over = false;
    fetchBundle(transfer, setCome, stop.signal, checked).then(
      (b) => {
        over = true;
        if (stop.signal.aborted) return;
        address = URL.createObjectURL(b);
        setBundle({ address, size: b.size });
      },
      (problem: unknown) => {
        over = true;
        if (!stop.signal.aborted) setError(problem);
      },
    );
    return () => {
      stop.abort();
      if (!over && ends.current) void files.cancelFileTransfer({ transfer: transfer.id }).catch(() => undefined); // one that is over needs none
      if (address) URL.revokeObjectURL(address);
    };
  }, [transfer, checked]);
  return (
    <Dialog title={`Diagnose ${h.name}`} open close={close}>
      {error !== undefined ? (
        <Problem error={error} />
      ) : (
        <p role="status" className="flex items-center gap-2">
          {bundle ? (
            <>
              The bundle is here: {sized(bundle.size)}
              {checked ? ", and has the SHA-256 that the host said." : "."}
            </>
          ) : (
            <>
              <Spinner /> {come > 0 ? `${sized(come)} have come` : "The host packs it"}
            </>
          )}
        </p>
      )}
      <div className="flex flex-wrap justify-end gap-2">
        <Button onClick={close}>{bundle || error !== undefined ? "Close" : "Cancel"}</Button>
        {error !== undefined && (
          <Button kind="primary" onClick={again}>
            Begin anew
          </Button>
        )}
        {bundle && (
          <a href={bundle.address} download={transfer.name} autoFocus className={buttonClass("primary")}>
            Save {transfer.name}
          </a>
        )}
      </div>
    </Dialog>
  );
}
