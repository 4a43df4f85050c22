// How states look: a colour and a shape each, so that colour is never the only difference.
export interface Look {
  tone: string; // a text colour
  shape: "dot" | "ring" | "half" | "bar" | "cross" | "busy";
  means: string;
}

export const hostStates = ["managed", "degraded", "updating", "enrolling", "pending", "offline", "quarantined", "unmanaged", "removed"] as const;

const looks: Record<string, Look> = {
  managed: { tone: "text-good", shape: "dot", means: "linked, everything applied, all healthy" },
  degraded: { tone: "text-warn", shape: "half", means: "linked, but a section failed or a module is unhealthy" },
  updating: { tone: "text-busy", shape: "busy", means: "its agent is being replaced; this ends by itself" },
  enrolling: { tone: "text-busy", shape: "busy", means: "enrolled, has not applied its first configuration" },
  pending: { tone: "text-odd", shape: "ring", means: "enrolled, waits for somebody to approve it" },
  offline: { tone: "text-bad", shape: "cross", means: "its link is gone for longer than allowed" },
  quarantined: { tone: "text-warn", shape: "bar", means: "linked, but receives nothing and may do nothing" },
  unmanaged: { tone: "text-soft", shape: "ring", means: "in the inventory, no agent" },
  removed: { tone: "text-soft", shape: "cross", means: "taken out for good" },

  active: { tone: "text-good", shape: "dot", means: "can be used" },
  exhausted: { tone: "text-soft", shape: "half", means: "all its uses are spent" },
  expired: { tone: "text-soft", shape: "ring", means: "its time is over" },
  revoked: { tone: "text-bad", shape: "cross", means: "ended by somebody" },

  applied: { tone: "text-good", shape: "dot", means: "the host has it" },
  failed: { tone: "text-bad", shape: "cross", means: "the host could not" },
  frozen: { tone: "text-warn", shape: "bar", means: "the host is ahead: somebody decides who wins" },

  undecided: { tone: "text-warn", shape: "half", means: "nobody has said yet whether it is the host" },
  kept: { tone: "text-good", shape: "dot", means: "goes on as the host" },
  split: { tone: "text-busy", shape: "ring", means: "becomes a host of its own" },
  dropped: { tone: "text-bad", shape: "cross", means: "refused for good" },

  waiting: { tone: "text-soft", shape: "ring", means: "not begun" },
  ready: { tone: "text-busy", shape: "ring", means: "about to be sent" },
  sent: { tone: "text-busy", shape: "half", means: "on its way" },
  timed_out: { tone: "text-bad", shape: "cross", means: "ended because it took too long" },
  unreachable: { tone: "text-bad", shape: "ring", means: "the host could not be reached in time" },
  skipped: { tone: "text-soft", shape: "bar", means: "not begun, because the run had stopped" },
  indeterminate: { tone: "text-warn", shape: "half", means: "begun, and nobody knows what came of it" },

  opening: { tone: "text-busy", shape: "ring", means: "the host has not taken it yet" },
  ended: { tone: "text-soft", shape: "bar", means: "over" },
  agreed: { tone: "text-good", shape: "dot", means: "the host's recording and the control plane's are the same" },
  partial: { tone: "text-warn", shape: "half", means: "one recording ends earlier; until then they are the same" },
  alone: { tone: "text-warn", shape: "ring", means: "the host has not told what its recording comes to" },
  disagreed: { tone: "text-bad", shape: "cross", means: "the host's recording and the control plane's differ: one was changed" },

  running: { tone: "text-busy", shape: "busy", means: "under way" },
  succeeded: { tone: "text-good", shape: "dot", means: "done" },
  cancelled: { tone: "text-soft", shape: "bar", means: "ended by somebody" },
  serving: { tone: "text-good", shape: "dot", means: "answers callers and agents" },
  leaving: { tone: "text-busy", shape: "busy", means: "was told to stop, and sends its agents to the others" },
  left: { tone: "text-soft", shape: "ring", means: "stopped in order" },
  gone: { tone: "text-bad", shape: "cross", means: "its lease ended without a word" },

  "guest waiting": { tone: "text-soft", shape: "ring", means: "nobody has opened the link" },
  "guest watching": { tone: "text-busy", shape: "busy", means: "looks on just now" },
  "guest left": { tone: "text-soft", shape: "bar", means: "was there; the link still works" },

  "session-review open": { tone: "text-odd", shape: "ring", means: "waits for somebody to look at it" },
  "session-review overdue": { tone: "text-bad", shape: "half", means: "nobody looked at it in time" },
  "session-review fine": { tone: "text-good", shape: "dot", means: "nothing was wrong" },
  "session-review follow_up": { tone: "text-warn", shape: "half", means: "nothing was wrong, something is to be mended" },
  "session-review violation": { tone: "text-bad", shape: "cross", means: "something was wrong" },

  "lock active": { tone: "text-bad", shape: "bar", means: "in force: it keeps out whatever is allowed" },
  "lock lifted": { tone: "text-soft", shape: "ring", means: "lifted by somebody" },
  "lock ended": { tone: "text-soft", shape: "ring", means: "its time is over" },

  "grant pending": { tone: "text-odd", shape: "ring", means: "waits for approval" },
  "grant active": { tone: "text-good", shape: "dot", means: "in force until its end" },
  "grant denied": { tone: "text-bad", shape: "cross", means: "somebody, or the policy's webhook, said no" },
  "grant cancelled": { tone: "text-soft", shape: "bar", means: "withdrawn by who asked" },
  "grant expired": { tone: "text-soft", shape: "ring", means: "nobody decided in time" },
  "grant ended": { tone: "text-soft", shape: "ring", means: "its time is over" },
  "grant revoked": { tone: "text-bad", shape: "cross", means: "ended by somebody before its time" },
  "grant returned": { tone: "text-soft", shape: "bar", means: "given back by who had it" },
  "review open": { tone: "text-odd", shape: "ring", means: "waits for somebody's answer" },
  "review done": { tone: "text-good", shape: "dot", means: "all was answered for" },
  "review overdue": { tone: "text-warn", shape: "half", means: "its time was over before all was answered for" },
  "review cancelled": { tone: "text-soft", shape: "bar", means: "ended by somebody before its time" },
  "review kept": { tone: "text-good", shape: "dot", means: "somebody said why it is still needed" },
  "review revoked": { tone: "text-bad", shape: "cross", means: "somebody took it away" },
  "review expired": { tone: "text-bad", shape: "ring", means: "nobody answered in time: it was revoked" },
  "review unanswered": { tone: "text-warn", shape: "half", means: "nobody answered in time: it was left" },
  "review gone": { tone: "text-soft", shape: "bar", means: "it was deleted, or had ended, before anybody answered" },
  "witness pending": { tone: "text-busy", shape: "ring", means: "was sent a checkpoint, and has not said yet what it makes of it" },
  "witness applied": { tone: "text-good", shape: "dot", means: "remembers it, and found that the log only grew" },
  "witness degraded": { tone: "text-warn", shape: "half", means: "an older state of the host was put back; it is led on" },
  "witness failed": { tone: "text-bad", shape: "cross", means: "refuses it: the log does not add to what it remembers" },
  "command pending": { tone: "text-odd", shape: "ring", means: "waits until somebody else than who saved it approves it" },
  "command approved": { tone: "text-good", shape: "dot", means: "it is what is run" },
  "command replaced": { tone: "text-soft", shape: "bar", means: "a later version was approved" },
  "operation pending": { tone: "text-odd", shape: "ring", means: "waits to be taken up" },

  ok: { tone: "text-good", shape: "dot", means: "its receiver takes what it is sent" },
  failing: { tone: "text-bad", shape: "cross", means: "its receiver does not take what it is sent; it is tried again" },
  paused: { tone: "text-warn", shape: "bar", means: "nothing is sent until somebody resumes it" },
  disabled: { tone: "text-bad", shape: "cross", means: "may do nothing, anywhere" },
  allowed: { tone: "text-good", shape: "dot", means: "a rule gives it" },
  denied: { tone: "text-bad", shape: "cross", means: "no rule gives it, or one denies it" },

  done: { tone: "text-good", shape: "dot", means: "carried out" },
  refused: { tone: "text-bad", shape: "cross", means: "not allowed" },
};

const unknown: Look = { tone: "text-soft", shape: "ring", means: "" };

/** Of "failed", or of a kind's own: "grant pending". A kind that says nothing of a state means what others mean by it. */
export function lookOf(state: string): Look {
  return looks[state] ?? looks[state.slice(state.indexOf(" ") + 1)] ?? unknown;
}
