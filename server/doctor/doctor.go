// Package doctor looks at everything that a control plane needs of its machine, and says for each thing what it saw and
// what to change.
//
// It works beside a control plane that runs and for one that does not start, and changes neither: nothing is migrated or
// repaired, and the one file that it writes, to measure the disk, it removes. What it finds has a stable code. A failure keeps loopbackd from starting or from doing its work;
// a warning is a failure to come.
package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/server/storage"
)

// Status of a finding.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
	Skipped Status = "skipped" // it could not be looked at; Seen says why
)

// Finding is one thing that was looked at.
type Finding struct {
	Check  string `json:"check"` // what was looked at: "disk_space"
	Status Status `json:"status"`
	Code   string `json:"code,omitempty"` // what is wrong: "disk_full"; empty where nothing is
	Seen   string `json:"seen"`
	Hint   string `json:"hint,omitempty"` // what to change
}

// Report is all findings, in the order in which causes come before their effects.
type Report struct {
	Version  string    `json:"version"`
	At       time.Time `json:"at"`
	Running  bool      `json:"running"` // a control plane has the data folder
	Status   Status    `json:"status"`  // the worst of the findings
	Findings []Finding `json:"findings"`
}

// Options of an examination.
type Options struct {
	Settings config.Settings
	Version  string
	Now      func() time.Time // nil: time.Now
}

type examination struct {
	Options
	now     time.Time
	running bool
	out     []Finding

	shared storage.Findings // what was seen in a database of several replicas
}

// Examine looks at everything. It takes seconds; ctx cuts it short.
func Examine(ctx context.Context, o Options) Report {
	if o.Now == nil {
		o.Now = time.Now
	}
	x := &examination{Options: o, now: o.Now()}
	x.settings()
	if x.dataFolder() {
		x.running = inUse(o.Settings.DataDir)
		x.space()
		x.durable()
		x.keys()
	}
	x.clock()
	x.database(ctx)
	x.certificate()
	x.passkeys()
	x.ports(ctx)
	x.descriptors()
	x.replicas(ctx)
	x.releases()
	x.backups()
	r := Report{Version: o.Version, At: x.now.UTC(), Running: x.running, Status: OK, Findings: x.out}
	for _, f := range x.out {
		if f.Status == Failed || f.Status == Warning && r.Status == OK {
			r.Status = f.Status
		}
	}
	return r
}

func (x *examination) ok(check, seen string, args ...any) {
	x.out = append(x.out, Finding{Check: check, Status: OK, Seen: fmt.Sprintf(seen, args...)})
}

func (x *examination) skip(check, seen string, args ...any) {
	x.out = append(x.out, Finding{Check: check, Status: Skipped, Seen: fmt.Sprintf(seen, args...)})
}

func (x *examination) found(status Status, check, code, hint, seen string, args ...any) {
	x.out = append(x.out, Finding{Check: check, Status: status, Code: code, Seen: fmt.Sprintf(seen, args...), Hint: hint})
}

// failed is found for what another part of the program says.
func (x *examination) failed(check string, err error) {
	f := fault.Of(err)
	x.found(Failed, check, f.Code, f.Hint, "%s", err.Error())
}

func (x *examination) settings() {
	if err := x.Settings.CheckFiles(); err != nil {
		x.found(Failed, "settings", "settings_invalid", "loopbackd check lists what is wrong", "%s", err)
		return
	}
	from := x.Settings.File
	if from == "" {
		from = "flags and environment"
	}
	x.ok("settings", "valid, from %s", from)
}

// inUse tells whether a control plane has the data folder: it holds a lock there for as long as it lives. The kernel is
// asked who holds it; trying to take it would be in the way of a start.
func inUse(dir string) bool {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, ".lock"), &st); err != nil {
		return false
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false
	}
	file := fmt.Sprintf(" %02x:%02x:%d ", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for l := range strings.Lines(string(locks)) {
		if strings.Contains(l, "FLOCK") && strings.Contains(l, file) {
			return true
		}
	}
	return false
}
