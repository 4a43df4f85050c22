// A new review: of which place, until when, and what becomes of that for which nobody answers.
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { reviews } from "../../api/reviews";
import { parseDuration } from "../../api/duration";
import { AccessReviewService } from "../../api/gen/loopback/v1/review_pb";
import { command } from "../../api/shell";
import { atOf, SpotSelect, useSpots } from "../../app/spot";
import { Field, Input } from "../../ui/basics";
import { call, Choice, FormDialog, useAct } from "../../ui/form";

const shortest = 3600; // seconds; the server's own bound

export function ReviewForm({ close, done }: { close: () => void; done: (review: string) => void }) {
  const queries = useQueryClient();
  const act = useAct();
  const { flag } = useSpots();
  const [opened] = useState(Date.now);
  const [name, setName] = useState("");
  const [spot, setSpot] = useState("");
  const [within, setWithin] = useState("14d");
  const [rest, setRest] = useState<"left" | "revoked">("left");
  const [description, setDescription] = useState("");
  const span = parseDuration(within);
  const wrong = span === undefined ? "write it like 36h or 14d" : span <= shortest ? "more than 1h: people need time to answer" : undefined;
  const request = { name: name.trim(), ...atOf(spot), description: description.trim(), dueAt: wrong ? undefined : timestampFromDate(new Date(opened + span! * 1000)), revokeUnanswered: rest === "revoked" };
  return (
    <FormDialog
      title="New review"
      close={close}
      act={act}
      label="Begin"
      disabled={wrong !== undefined || name.trim() === ""}
      submit={() =>
        void act.run(async () => {
          const made = await reviews.createAccessReview(request);
          void queries.invalidateQueries({ queryKey: ["reviews"] });
          close();
          done(made.id);
        })
      }
      same={{
        cli: command(`review create ${name.trim() || "NAME"}`, [spot === "" ? ["", ""] : flag(spot), ["within", within], ["revoke-unanswered", rest === "revoked"], ["description", description.trim()]]),
        api: call(AccessReviewService.method.createAccessReview, request),
      }}
    >
      <p>Every binding at the place and below it is under review that allows something, came of no grant and has not ended.</p>
      <Field label="Name">{(at) => <Input {...at} autoFocus required value={name} placeholder="q3-prod" onChange={(e) => setName(e.target.value)} />}</Field>
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Of what is held">{(at) => <SpotSelect {...at} value={spot} set={setSpot} />}</Field>
        <Field label="Time to answer" hint="36h, 14d" error={wrong}>
          {(at) => <Input {...at} required value={within} onChange={(e) => setWithin(e.target.value.trim())} />}
        </Field>
      </div>
      <Choice
        label="What nobody answers for by then"
        value={rest}
        set={setRest}
        of={[
          { value: "left", label: "is left, and listed as unanswered" },
          { value: "revoked", label: "is revoked", means: "at once, everywhere, streams included; only the last owner stays" },
        ]}
      />
      <Field label="What it is for" hint="stands with the review">
        {(at) => <Input {...at} value={description} maxLength={500} onChange={(e) => setDescription(e.target.value)} />}
      </Field>
    </FormDialog>
  );
}
