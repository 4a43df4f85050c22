package shell

import (
	"encoding/json"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// What travels on /shell/v1/{session}, a WebSocket of binary messages: one byte that says what it is, a number (8 bytes, big
// endian; 0 where it has none), and a body. Query: mode=own|join|watch; pos=N, what was shown already (recording.Head.Bytes);
// origin=N, a random number by which a typist is known again after a cut; again=TEXT, what ShowAgain said last. Whoever is silent
// for 30 seconds is taken for gone: send pings. The same address asked for without an upgrade says why there would be no WebSocket,
// or answers 426: nobody takes part by asking.

// Shown is what the control plane sends.
type Shown byte

// The kinds. What is refused before there is a WebSocket is answered by HTTP with the body of ShowOver.
const (
	ShowHello   Shown = 's' // first of all. Body: Hello as JSON
	ShowEvents  Shown = 'e' // body: recording.Event frames; number: the position after them
	ShowApplied Shown = 'a' // number: how many bytes of what this typist sent were typed
	ShowOver    Shown = 'x' // last of all. Body: why, as EncodeOver writes it
	ShowAgain   Shown = 't' // body: what a typist shows to go on after a cut, in place of a passkey; the newest counts. See TakenUpAgain
)

// Told is what the other side sends.
type Told byte

// The kinds.
const (
	TellTyped Told = 'i' // body: at most MaxInput bytes; number: how many of theirs came before
	TellSize  Told = 'r' // body: "COLSxROWS"
	TellShown Told = 'c' // number: everything up to this position was shown
	TellKill  Told = 'k' // ends the session; for who opened it
)

// Hello says whose session it is. Guests are told the last three, and of the rest the session and its host.
type Hello struct {
	Session string `json:"session"`
	Host    string `json:"host"`
	User    string `json:"user,omitempty"`
	Who     string `json:"who,omitempty"`

	Guest     string    `json:"guest,omitempty"` // what they are called
	InvitedBy string    `json:"invitedBy,omitempty"`
	Until     time.Time `json:"until,omitzero"` // at the latest
}

// GuestProtocol is what the WebSocket of a guest at /guest/v1/{session} is negotiated as by a browser, which can set no header: it
// offers this and the link's string (RFC 6455, 11.3.4), so that the string is in no address. Programs send it as a bearer credential.
// What travels is what travels to who watches, but events of Marker, Begin and Exit are not shown, and whoever says anything but
// TellShown is sent away.
const GuestProtocol = "loopback.guest.v1"

type over struct {
	Kind    fault.Kind `json:"kind"`
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint,omitempty"`
}

// EncodeOver is a reason as it travels. Defects of ours are not told.
func EncodeOver(f *fault.Error) []byte {
	o := over{f.Kind, f.Code, f.Message, f.Hint}
	if f.Kind == fault.Internal {
		o.Message = "internal error"
	}
	for _, v := range f.Violations {
		o.Message += ": " + v.Field + " " + v.Message
	}
	b, _ := json.Marshal(o)
	return b
}

// DecodeOver reads it.
func DecodeOver(b []byte) *fault.Error {
	var o over
	if json.Unmarshal(b, &o) != nil || o.Code == "" {
		return fault.New(fault.Unavailable, "session_lost", "the connection to the session ended")
	}
	f := fault.New(o.Kind, o.Code, "%s", o.Message)
	if o.Hint != "" {
		f = f.WithHint("%s", o.Hint)
	}
	return f
}
