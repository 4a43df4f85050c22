// Package file is a file on its way to or from a host: a Transfer.
//
//	            begun                      all of it is there, and is what it should be
//	waiting ───────────▶ running ──────────────▶ succeeded
//	   ▲                    │ ├────────────────▶ failed: the host says why, nobody went on with it for an hour, or the
//	   └── cut, anywhere ───┘ │                          right to it ended
//	                          └────────────────▶ cancelled
//
// A transfer is one or more attempts, each an order to the host with a stream. The control plane keeps no bytes: it knows from
// where to go on, and has the host and whoever began the transfer do so, after a cut, on any replica, after any of the three was
// killed. The bytes that have come of a put lie in a file beside the target, of which they take the place once they are
// all there, have the SHA-256 that was said at the beginning, and are on the disk. So there is the old file or the new one,
// never a part, and an attempt that is repeated does no harm.
//
// What a host tells of itself (a diagnosis) comes the same way.
package file

import (
	"encoding/hex"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over files.
const (
	Put      access.Permission = "file.put" // tier 0
	Get      access.Permission = "file.get" // tier 0: root reads everything, private keys among it
	Read     access.Permission = "file.read"
	Cancel   access.Permission = "file.cancel"
	Diagnose access.Permission = "hosts.diagnose"
)

// End is what the audit log calls the end of a transfer.
const End access.Permission = "file.end"

// Bounds.
const (
	MaxSize   = 64 << 30 // bytes of a file
	MaxBundle = 16 << 20 // bytes of a diagnosis
	maxPath   = 4000
)

// Kind of a transfer.
type Kind string

// The kinds.
const (
	ToHost   Kind = "put"
	FromHost Kind = "get"
	OfHost   Kind = "diagnose"
)

// Permission that a transfer of this kind needs.
func (k Kind) Permission() access.Permission {
	return map[Kind]access.Permission{ToHost: Put, FromHost: Get, OfHost: Diagnose}[k]
}

// State of a transfer.
type State string

// The states.
const (
	Waiting   State = "waiting" // for somebody to go on with it
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Over tells whether nothing more comes of it.
func (s State) Over() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Transfer is one file on its way. Its Meta.Name is the path.
type Transfer struct {
	tenant.Meta
	Scope     access.Scope
	HostID    string
	HostName  string
	State     State
	Task      Task
	Actor     exec.Actor
	RequestID string
	ErrorCode string
	Error     string
	Hint      string
	EndedAt   time.Time

	// The attempt that is under way, or was last.
	Attempt  int64
	OrderID  string    // "fto_…"
	NotAfter time.Time // the order is void after it
	Sent     bool      // by the replica that holds the host's link
	Replica  string    // that awaits the host's stream
}

// Task is what a host is told.
type Task struct {
	Transfer string `json:"transfer"`
	Kind     Kind   `json:"kind"`
	Path     string `json:"path"`
	Offset   int64  `json:"offset,omitempty"` // of the first byte of this attempt
	Size     int64  `json:"size"`             // -1: not known yet
	SHA256   string `json:"sha256,omitempty"`
	Mode     uint32 `json:"mode,omitempty"` // 0: as DefaultMode says
	// DefaultMode is for a file that replaces none; one that does has that one's.
	DefaultMode uint32 `json:"defaultMode,omitempty"`
	Owner       string `json:"owner,omitempty"`   // USER or USER:GROUP; empty: that of the file that is replaced, or root
	Fresh       bool   `json:"fresh,omitempty"`   // replaces nothing
	Version     string `json:"version,omitempty"` // of what is read, as the first attempt saw it
}

// Validate collects what is wrong with what was asked for.
func (t Task) Validate() error {
	var v fault.Check
	if t.Kind != OfHost {
		v.That(path.IsAbs(t.Path) && path.Clean(t.Path) == t.Path && t.Path != "/", "path", "is %q, not the absolute path of a file, without . and ..", t.Path)
		v.That(len(t.Path) <= maxPath && utf8.ValidString(t.Path) && !strings.ContainsAny(t.Path, "\x00\n"), "path", "is too long, or holds what no path should")
	}
	if t.Kind == ToHost {
		sum, err := hex.DecodeString(t.SHA256)
		v.That(err == nil && len(sum) == 32, "sha256", "is %q, not a SHA-256 in hexadecimal", t.SHA256)
		v.That(t.Size >= 0 && t.Size <= MaxSize, "size", "is %d; allowed are 0 to %d bytes", t.Size, int64(MaxSize))
		v.That(t.Mode <= 0o777 && t.DefaultMode <= 0o777, "mode", "is %04o; allowed are permission bits, 0000 to 0777", max(t.Mode, t.DefaultMode))
		v.That(len(t.Owner) <= 130 && !strings.ContainsAny(t.Owner, "/\n\x00 "), "owner", "is %q, not USER or USER:GROUP", t.Owner)
	}
	return v.Err("file_invalid", "the file cannot be transferred like this")
}

// Channels of a stream: the bytes, in whichever direction, and from the host Ready, where it reads, and Result, each one JSON
// value on a line.
const (
	DataNumber = 0
	WordNumber = 1
)

// Window of a file's streams, in bytes.
const Window = 8 << 20

// Word is what a host says: Ready first where it reads, Result last.
type Word struct {
	Ready  *Ready  `json:"ready,omitempty"`
	Result *Result `json:"result,omitempty"`
}

// Ready says that what is to be read is open.
type Ready struct {
	Size    int64  `json:"size"` // -1: it is known at the end
	Mode    uint32 `json:"mode"`
	Version string `json:"version"`
}

// Result is how it ended.
type Result struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Mode   uint32 `json:"mode,omitempty"`
	Owner  string `json:"owner,omitempty"`
	// What went wrong.
	Kind  fault.Kind `json:"kind,omitempty"`
	Code  string     `json:"code,omitempty"`
	Error string     `json:"error,omitempty"`
	Hint  string     `json:"hint,omitempty"`
}

// Fault is what went wrong; nil: nothing.
func (r Result) Fault() *fault.Error {
	if r.Code == "" {
		return nil
	}
	f := fault.New(r.Kind, clip(r.Code), "%s", clip(r.Error))
	f.Hint = clip(r.Hint)
	return f
}

// clip bounds what a host says.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 500)], "") }

// Refused is the result of what went wrong.
func Refused(err error) Result {
	f := fault.Of(err)
	return Result{Kind: f.Kind, Code: f.Code, Error: f.Message, Hint: f.Hint}
}

// Why the control plane ends an attempt for good: nobody goes on with what has come.
var (
	ErrCancelled  = fault.New(fault.Canceled, "file_cancelled", "the transfer was cancelled")
	ErrNotAllowed = fault.New(fault.Denied, "permission_ended", "whoever began the transfer may not go on with it any more")
	ErrOver       = fault.New(fault.Precondition, "file_over", "the transfer is over")
)

// ErrOffset has a put go on from an earlier byte: the host has less than it is to go on from.
var ErrOffset = fault.New(fault.Conflict, "file_offset", "the host does not have that much of the file any more")

// Query selects transfers, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	States   []State
	Page     tenant.Page
}
