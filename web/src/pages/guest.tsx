// What a guest of a shell sees: one terminal, to look at. Nobody is signed in here, and nothing is asked of the API.
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useEffect, useState } from "react";
import { Wordmark } from "../app/session";
import { LiveTerminal } from "../terminal/live";
import type { Hello } from "../terminal/connection";
import { Ago, Problem } from "../ui/basics";

export function GuestPage({ session, secret }: { session: string; secret: string }) {
  const [hello, setHello] = useState<Hello>();
  useEffect(() => {
    document.title = "Guest · Loopback";
  }, []);
  return (
    <main className="mx-auto flex min-h-dvh max-w-6xl flex-col gap-4 p-4">
      <Wordmark />
      {!secret ? (
        <Problem error={{ code: "guest_invalid", message: "this is not the whole link", hint: "open the link again as you got it: its last part is kept nowhere", violations: [], requestId: "" }} />
      ) : (
        <>
          <header>
            <h1 className="text-[18px] font-semibold wrap-anywhere">{hello ? `Shell on ${hello.host}` : "A shell"}</h1>
            {hello && (
              <p className="text-soft wrap-anywhere">
                {hello.invitedBy} lets you look on, {hello.guest}. Those in it see that you do.
                {hello.until && (
                  <>
                    {" "}
                    Your link ends <Ago at={timestampFromDate(new Date(hello.until))} />.
                  </>
                )}
              </p>
            )}
          </header>
          <LiveTerminal session={{ id: session, hostName: "the host" }} mode="watch" changed={() => undefined} guest={{ secret, welcomed: setHello }} />
        </>
      )}
    </main>
  );
}
