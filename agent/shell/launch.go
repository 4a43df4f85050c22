package shell

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// DefaultDir is where orders are handed to shell hosts: in memory, as they hold secrets.
const DefaultDir = "/run/loopback/shell"

// RecordingsDir is the spool's name in the state folder.
const RecordingsDir = "recordings"

// Reserve of the spool on a host, in bytes.
const Reserve = 16 << 20

// Handed is what a shell host is given.
type Handed struct {
	Order      shell.Order `json:"order"`
	Stream     string      `json:"stream"`
	Credential []byte      `json:"credential"`
	Endpoint   string      `json:"endpoint"`
}

// Launcher starts shell hosts.
type Launcher struct {
	Allowed  bool     // by the host's ceiling
	Dir      string   // of orders
	StateDir string   // of the agent
	Program  string   // the agent's
	Args     []string // that lead to the shell host's command; the order's file follows
	Log      *slog.Logger
}

// Launch carries an order out: it starts the shell host of a session, or drops what was recorded of one. A session is started once: the
// same order again changes nothing.
func (l Launcher) Launch(ctx context.Context, order []byte, stream string, credential []byte, endpoint string) error {
	o, err := shell.ParseOrder(order)
	if err != nil {
		return err
	}
	if o.Forget != "" { // also where shells are not allowed any more
		return l.forget(o.Forget)
	}
	if !l.Allowed {
		return fault.New(fault.Precondition, "shell_not_allowed", "this host does not allow shells").
			WithHint("its administrator decides that: allow: {shell: true} in /etc/loopback/agent.yaml there, then restart the agent")
	}
	if !id.Valid("ses", o.Session) {
		return fault.New(fault.Invalid, "shell_order_invalid", "%q is no id of a session", o.Session)
	}
	if _, err := os.Stat(filepath.Join(l.StateDir, RecordingsDir, o.Session)); err == nil {
		return nil // it runs, or has run
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return failed("make the folder of orders", err)
	}
	path := filepath.Join(l.Dir, o.Session+".json")
	b, err := json.Marshal(Handed{o, stream, credential, endpoint})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // it is being started
	}
	if err != nil {
		return failed("hand the order on", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = l.start(ctx, o.Session, path)
	}
	if err != nil {
		_ = os.Remove(path) // nobody has taken it
		return failed("start the session", err)
	}
	return nil
}

// forget drops what was recorded of a session that is over here too. What it came to stays, so that it can be held against the control
// plane's word; the journal has that it was dropped.
func (l Launcher) forget(session string) error {
	if !id.Valid("ses", session) {
		return fault.New(fault.Invalid, "shell_order_invalid", "%q is no id of a session", session)
	}
	if transient(HostUnit(session)) {
		return fault.New(fault.Unavailable, "shell_running", "the session is not over on this host yet")
	}
	dir := filepath.Join(l.StateDir, RecordingsDir, session)
	bytes, err := recording.Held(dir)
	if err == nil && bytes > 0 {
		err = recording.Forget(dir)
	}
	if err != nil {
		return failed("drop what it recorded", err)
	}
	if bytes > 0 {
		l.Log.Info("what was recorded of a session is dropped, as the control plane said", "session", session, "bytes", bytes)
	}
	return nil
}

func failed(doing string, err error) error {
	if f := fault.Of(err); f.Kind != fault.Internal {
		return f
	}
	return fault.New(fault.Unavailable, "shell_unstarted", "the host cannot %s: %s", doing, err)
}

// start starts the unit: outside of the agent's, so that the agent may end.
func (l Launcher) start(ctx context.Context, session, order string) error {
	args := append([]string{
		"--unit=" + HostUnit(session), "--collect", "--quiet", "--service-type=exec", "--description=Shell host of session " + session,
		"--property=OOMScoreAdjust=-500", "--property=KillMode=mixed", "--property=TimeoutStopSec=20s", "--property=UMask=0077", "--", l.Program,
	}, l.Args...)
	out, err := exec.CommandContext(ctx, "systemd-run", append(args, order)...).CombinedOutput()
	if text := strings.Join(strings.Fields(string(out)), " "); err != nil && text != "" {
		return errors.New(text)
	}
	return err
}

// Take reads an order that was handed on, and destroys it.
func Take(path string) (Handed, error) {
	var h Handed
	b, err := os.ReadFile(path)
	if err != nil {
		return h, err
	}
	if err := errors.Join(os.Remove(path), durable.SyncDir(filepath.Dir(path))); err != nil {
		return h, err
	}
	return h, json.Unmarshal(b, &h)
}
