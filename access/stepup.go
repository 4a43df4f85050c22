package access

import (
	"time"

	"github.com/loopbackd/loopback/fault"
)

// StepUpWithin is how long ago somebody who signed in may have given a second factor when they do an act of tier 0.
const StepUpWithin = time.Minute

const clockSkew = 5 * time.Second

// ErrStepUp is the answer to who may do it, but has not shown just now that it is them. Clients act on its code: the console
// asks for the passkey in place and repeats the call, the command line has a browser do it.
var ErrStepUp = fault.New(fault.Denied, "step_up_required", "this needs a passkey that was shown within the last minute").
	WithHint("show your passkey in the console; the command line prints an address for that")

// StepUp is nil where the actor may go on with an act that needs this permission, and ErrStepUp where they first have to show a
// passkey: they signed in, the permission is of tier 0, and their second factor is older than StepUpWithin. API keys and workers
// never step up: a key does acts of tier 0 only by a binding that ends (see Rule).
//
// A method of the API whose permission is of tier 0 (tierZeroNames) asks for it by itself: the API's edge calls this before it
// reads the message, once, at the beginning; a stream that goes on is not asked again. Whatever lets people in by another way (a
// WebSocket) calls it where it would have called Touches, at the beginning of what the person does, and not when it resumes:
//
//	if err := actor.RequireHost(shell.Open, at, h.ID, labels, host.Read, what); err != nil { return err }
//	if err := actor.StepUp(shell.Open); err != nil { return err }
//
// An act that takes a passkey though its permission is of no tier calls RequireStepUp instead. MFA is read anew by the edge
// before it refuses, so that a passkey that was shown on another replica counts at once.
func (a Actor) StepUp(p Permission) error {
	if !tierZero(p) {
		return nil
	}
	return a.RequireStepUp()
}

// RequireStepUp is StepUp for an act that needs a fresh passkey whatever its permission.
func (a Actor) RequireStepUp() error {
	if a.Kind != SignIn {
		return nil
	}
	now := time.Now()
	if a.Policy != nil {
		now = a.Policy.now()
	}
	// Another replica's clock may be a moment ahead of ours.
	if age := now.Sub(a.MFA); a.MFA.IsZero() || age > StepUpWithin || age < -clockSkew {
		return ErrStepUp
	}
	return nil
}
