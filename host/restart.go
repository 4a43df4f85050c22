package host

import (
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
)

// RestartWithin is how long the restart of a module may take. A module that takes longer is left alone until it comes back.
const RestartWithin = time.Minute

// Restart is how the restart of a module of an agent went, as its host says.
type Restart struct {
	State    section.State `json:"state,omitempty"`    // what came of applying anew what it had applied last; empty: it had applied nothing
	Revision string        `json:"revision,omitempty"` // of that
	Message  string        `json:"message,omitempty"`
	Newer    bool          `json:"newer,omitempty"` // a newer value, which was not applied before, is tried again
	Healthy  bool          `json:"healthy"`
	Health   string        `json:"health,omitempty"` // why not

	ErrorCode string `json:"errorCode,omitempty"` // it could not be restarted
	Error     string `json:"error,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

// Fault is what went wrong with the restart of a module; nil where nothing did.
func (r Restart) Fault(module string) *fault.Error {
	var f *fault.Error
	switch {
	case r.ErrorCode != "":
		f = fault.New(fault.Precondition, r.ErrorCode, "%s", r.Error)
		f.Hint = r.Hint
	case r.State == section.Failed:
		f = fault.New(fault.Precondition, "module_failed", "the module %s was restarted, and failed to apply %s: %s", module, r.Revision, r.Message)
	case !r.Healthy:
		f = fault.New(fault.Precondition, "module_unhealthy", "the module %s was restarted, and is unhealthy: %s", module, r.Health)
	}
	return f
}

// String says how it went.
func (r Restart) String() string {
	if r.ErrorCode != "" {
		return r.Error
	}
	words := []string{"it had applied nothing yet"}
	if r.State != "" {
		words[0] = string(r.State) + " " + r.Revision
		if r.Message != "" {
			words[0] += " (" + r.Message + ")"
		}
	}
	if r.Newer {
		words = append(words, "a newer value is tried again")
	}
	if r.Healthy {
		return strings.Join(append(words, "healthy"), "; ")
	}
	return strings.Join(append(words, "unhealthy: "+r.Health), "; ")
}
