package file

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/stream"
)

// DefaultDir is where orders are handed on: in memory, as they hold credentials.
const DefaultDir = "/run/loopback/file"

// Order is one, as it is handed to whoever carries it out.
type Order struct {
	ID         string    `json:"id"`
	NotAfter   time.Time `json:"notAfter"` // by the control plane's clock
	Grant      string    `json:"grant"`    // that it rests on, for the log
	Task       file.Task `json:"task"`
	Stream     string    `json:"stream"`
	Credential []byte    `json:"credential"`
	Endpoint   string    `json:"endpoint"`

	Dial func(context.Context) (stream.Conn, error) `json:"-"`
}

// Refusals.
var (
	ErrCeiling = fault.New(fault.Denied, "files_not_allowed", "this host allows no files to be put or got").
			WithHint("on the host, set files: true under allow in /etc/loopback/agent.yaml, and run: systemctl restart loopback-agent")
	errLate    = fault.New(fault.Precondition, "order_late", "the order came after its time and was not begun")
	errStarted = fault.New(fault.Unavailable, "file_unstarted", "the host cannot begin to carry the file")
	errStopped = fault.New(fault.Unavailable, "agent_stopping", "the agent is stopping, so nothing was begun")
)

// Launcher has orders carried out. Make it with NewLauncher.
type Launcher struct {
	options Options
	mu      sync.Mutex
	begun   map[string]bool // orders; a repeat is passed over
	closed  bool
	work    sync.WaitGroup
	ctx     context.Context
	stop    context.CancelFunc
}

// Options of a Launcher.
type Options struct {
	Allow host.Ceiling     // of agent.yaml
	Now   func() time.Time // the control plane's clock
	Notes string           // folder for notes of what lies about
	Log   *slog.Logger
	// Program and Args start a process that carries out an order, whose file follows. Empty: the agent does it itself.
	Program string
	Args    []string
	Dir     string // of orders
	Bundle  func(ctx context.Context) ([]byte, error)
}

// NewLauncher makes a Launcher.
func NewLauncher(o Options) *Launcher {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Launcher{options: o, begun: map[string]bool{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// Close ends what the agent does itself, and waits for it. Processes go on.
func (l *Launcher) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.stop()
	l.work.Wait()
}

// Order takes an order. It does not wait; refuse is called where it is not begun.
func (l *Launcher) Order(o Order, refuse func(*fault.Error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun[o.ID] {
		return
	}
	var err error
	switch {
	case l.closed:
		err = errStopped
	case o.Task.Kind != file.OfHost && !l.options.Allow.Files:
		err = ErrCeiling
	case !id.Valid("fto", o.ID):
		err = state.ErrOrder
	case l.options.Now().After(o.NotAfter):
		err = errLate
	}
	if err != nil {
		l.options.Log.Warn("an order is refused", "order", o.ID, "grant", o.Grant, "error", err)
		refuse(fault.Of(err))
		return
	}
	// A repeat without a stream that is authorised moves nothing; this spares the attempt.
	if len(l.begun) > 10_000 {
		clear(l.begun)
	}
	l.begun[o.ID] = true
	l.options.Log.Info("a file is ordered", "order", o.ID, "grant", o.Grant, "kind", o.Task.Kind, "path", o.Task.Path)
	l.work.Go(func() {
		if l.options.Program == "" {
			Carrier{Task: o.Task, Dir: l.options.Notes, Bundle: l.options.Bundle, Log: l.options.Log}.Carry(l.ctx, o.Dial)
			return
		}
		if err := l.launch(o); err != nil {
			l.options.Log.Warn("an order cannot be begun", "order", o.ID, "error", err)
			refuse(errStarted.WithCause(err))
		}
	})
}

// launch starts a process for an order, outside of the agent's unit.
func (l *Launcher) launch(o Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.options.Dir, 0o700); err != nil {
		return err
	}
	handed := filepath.Join(l.options.Dir, o.ID+".json")
	if err := durable.WriteFile(handed, b, 0o600); err != nil {
		return err
	}
	args := append([]string{
		"--unit=loopback-file-" + strings.TrimPrefix(o.ID, "fto_"), "--collect", "--quiet", "--service-type=exec", "--description=File of transfer " + o.Task.Transfer,
		"--property=KillMode=control-group", "--property=TimeoutStopSec=5s", "--property=UMask=0077", "--", l.options.Program,
	}, l.options.Args...)
	ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemd-run", append(args, handed)...).CombinedOutput()
	if err != nil {
		_ = os.Remove(handed) // nobody has taken it
		if text := strings.Join(strings.Fields(string(out)), " "); text != "" {
			err = errors.New(text)
		}
	}
	return err
}

// Take reads an order that was handed on, and destroys it.
func Take(path string) (o Order, err error) {
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	return o, err
}
