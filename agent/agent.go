// Package agent keeps one host as its control plane desires: desired state in, status out.
//
//	              ┌────────────────────────── Agent ──────────────────────────┐
//	control plane │   link ──▶ sections ──▶ modules (settings, later mesh …)   │ the machine
//	 ◀───────────▶│    ▲          │                                            │
//	              │    └──────────┴── status, health, inventory                │
//	              └────────┬───────────────────────────────────┬──────────────┘
//	                  state folder                        status socket
//
// The agent starts with what it knows: the last good sections are applied from disk, and it is ready before it has a link,
// since a host must work while the control plane is away. From then on three loops run, and none waits for another: the
// link (package link), the applying of sections, and the watching of the machine for its inventory. Each has promised
// systemd's watchdog when it will be back.
//
// What goes wrong in one place stays there. A module that fails or panics leaves its section failed, with the last good
// value in force; a disk that is full leaves the agent linked and saying so; a control plane that refuses the host for
// good leaves the host as it is. Only an identity that is missing or damaged, or a state folder that another agent holds,
// keeps the agent from starting.
//
// The control plane is obeyed within the ceiling of agent.yaml. A host that is pending or quarantined applies nothing.
package agent

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/exec"
	"github.com/loopbackd/loopback/agent/file"
	"github.com/loopbackd/loopback/agent/inventory"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/settings"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/agent/systemd"
	"github.com/loopbackd/loopback/agent/witness"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// Module makes this machine match one section.
type Module interface {
	// Name of the section.
	Name() string
	// Apply makes the machine match the whole section: safe to repeat, touching only what the module owns. The status's
	// State and Message count, the agent fills in the rest. After Failed the machine is as the last good value left it.
	// Calls do not overlap.
	Apply(ctx context.Context, s section.Section) section.Status
	// Health of the module, at any time, without waiting.
	Health() host.Health
}

// Restarter is a module that has more to do when it is restarted than to apply its section once more.
type Restarter interface {
	// Restart stops the module and starts it as at the agent's start: it forgets what it holds in memory, and what it applied last is
	// applied anew right after. It does not overlap with Apply.
	Restart(ctx context.Context) error
}

// Options of an agent. Config and StateDir are needed.
type Options struct {
	Config   config.Config
	StateDir string
	Socket   string // for status; empty: none
	Version  string
	Log      *slog.Logger      // nil: nothing is logged
	Level    *slog.LevelVar    // of Log; nil: it stays as it is
	Systemd  *systemd.Notifier // nil: nobody is told
	Modules  []Module          // beside the agent's own

	// Troubles is what stands in this host's way now, in the codes of the doctor; looked at every ten minutes. Nil: nothing.
	Troubles func() []host.Trouble

	Runner exec.Runner // of commands; nil: systemd's, or a plain one where that does not run
	// Files says how files are carried; what the agent knows itself it fills in. The zero value has the agent do it.
	Files file.Options
	// Shell begins a shell, or says why it does not. Nil: there are none on this host.
	Shell func(ctx context.Context, o link.ShellOrder) error

	Machine inventory.Source // the zero value is this machine
	Dial    link.Dial        // nil: by package wire, as Config says
}

// How often the machine is looked at, and how often for what stands in the agent's way: that writes to the disk.
const (
	inventoryEvery = time.Minute
	troublesEvery  = 10 * inventoryEvery
)

// Agent is the supervisor. Make it with New, run it once with Run.
type Agent struct {
	options  Options
	log      *slog.Logger
	store    *state.Store
	settings *settings.Module
	witness  *witness.Module
	modules  []Module
	sections *sections
	link     *link.Client
	orders   *exec.Executor
	files    *file.Launcher
	restarts *restarts

	mu        sync.Mutex
	identity  state.Identity // guarded by mu
	inventory link.Inventory // guarded by mu
	health    []host.Health  // as last told; guarded by mu
}

// New opens the state folder and reads who this host is. The errors are *fault.Error where somebody can do something
// about them: state.ErrLocked, ErrNoIdentity, ErrIdentityDamaged. After an error nothing is held.
func New(o Options) (*Agent, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Systemd == nil {
		o.Systemd = &systemd.Notifier{}
	}
	store, err := state.Open(o.StateDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{options: o, log: o.Log, store: store}
	if err := a.assemble(); err != nil {
		_ = store.Close() // nothing was written
		return nil, err
	}
	return a, nil
}

func (a *Agent) assemble() (err error) {
	o := a.options
	if a.identity, err = a.store.Identity(); err != nil {
		return err
	}
	a.settings = settings.New(settings.Options{Ceiling: o.Config.Allow, Level: o.Level, LogLevel: o.Config.LogLevel, Verbose: o.Config.Verbose})
	a.witness = witness.New(o.StateDir, a.log)
	a.modules = append([]Module{a.settings, a.witness}, o.Modules...)
	a.sections = newSections(a.store, a.modules, a.log)
	a.sections.promise = func(d time.Duration) { o.Systemd.Promise("sections", d) }
	a.sections.rest = func() { o.Systemd.Rest("sections") }
	a.gather()
	a.health = a.Health()
	a.link, err = link.New(link.Options{
		Config: o.Config, Store: a.store, Host: a, Version: o.Version, BootID: o.Machine.BootID(), Uptime: uptime, Log: a.log,
		Dial: o.Dial, Parted: a.parted, Held: a.sections.good, Shell: o.Shell, Promise: func(d time.Duration) { o.Systemd.Promise("link", d) },
	})
	if err != nil {
		return err
	}
	a.sections.uplink, a.sections.applied = a.link, a.tellHealth
	a.orders = exec.New(exec.Options{Dir: filepath.Join(o.StateDir, "orders"), Allow: o.Config.Allow, Now: a.link.Now, Log: a.log, Runner: o.Runner})
	o.Files.Allow, o.Files.Now, o.Files.Log, o.Files.Notes = o.Config.Allow, a.link.Now, a.log, filepath.Join(o.StateDir, "files")
	a.files = file.NewLauncher(o.Files)
	a.restarts = newRestarts(filepath.Join(o.StateDir, "restarts"), a.sections, a.link, a.log)
	return a.sections.load()
}

// uptime of the host, sleep included.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Run runs the agent until ctx ends, then stops in order: the link says goodbye, what is being applied is finished or
// given up, the state folder is given free. The error says why it could not start.
func (a *Agent) Run(ctx context.Context) error {
	defer a.store.Close()
	var socket *status.Server
	if a.options.Socket != "" {
		var err error
		if socket, err = status.Listen(a.options.Socket, a.Status); err != nil {
			return err
		}
	}
	a.log.Info("the agent starts", "version", a.options.Version, "host", a.identity.HostID)
	// The link ends first, so that the goodbye is said; then the rest.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { a.sections.run(background) })
	running.Go(func() { a.watch(background) })
	running.Go(func() { a.tell(background) })
	running.Go(func() {
		a.options.Systemd.Feed(background, func(loop string) { a.log.Error("the watchdog is not fed", "why", loop) })
	})
	if socket != nil {
		running.Go(func() {
			if err := socket.Serve(background); err != nil {
				a.log.Error("the status socket is gone", "error", err)
			}
		})
	}
	if err := a.options.Systemd.Ready(); err != nil {
		a.log.Warn("systemd was not told that the agent is ready", "error", err)
	}
	a.link.Run(ctx)
	a.options.Systemd.Rest("link")
	if err := a.options.Systemd.Stopping(); err != nil {
		a.log.Debug("systemd was not told that the agent stops", "error", err)
	}
	a.log.Info("the agent stops")
	a.orders.Close()
	a.files.Close()
	a.restarts.close()
	stop()
	running.Wait()
	return nil
}

// watch looks at the machine every minute and at the modules' health.
func (a *Agent) watch(ctx context.Context) {
	defer a.options.Systemd.Rest("watch")
	ticks := time.NewTicker(inventoryEvery)
	defer ticks.Stop()
	var looked time.Time
	for {
		a.options.Systemd.Promise("watch", 3*inventoryEvery)
		if a.options.Troubles != nil && time.Since(looked) >= troublesEvery {
			looked = time.Now()
			a.link.Troubled(a.options.Troubles())
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
		if a.gather() {
			a.log.Info("the inventory changed")
			a.link.InventoryChanged()
		}
		a.tellHealth()
	}
}

// tellHealth has the modules' health sent where it changed.
func (a *Agent) tellHealth() {
	now := a.Health()
	a.mu.Lock()
	changed := !slices.Equal(now, a.health)
	a.health = now
	a.mu.Unlock()
	if changed {
		a.link.HealthChanged()
	}
}

// gather reads the inventory and tells whether it changed.
func (a *Agent) gather() (changed bool) {
	i := a.options.Machine.Gather(a.options.Version)
	d := inventory.Digest(i, a.options.Config.Allow)
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = !bytes.Equal(d, a.inventory.Digest)
	a.inventory = link.Inventory{Inventory: i, Ceiling: a.options.Config.Allow, Digest: d}
	return changed
}

// tell keeps systemd's status line true.
func (a *Agent) tell(ctx context.Context) {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	told := ""
	for {
		if line := statusLine(a.Status()); line != told {
			if err := a.options.Systemd.Status(line); err == nil {
				told = line
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// The agent is the link's Host.
var _ link.Host = (*Agent)(nil)

// Linking is for package link.
func (a *Agent) Linking() []section.Status { return a.sections.linking() }

// Stand is for package link.
func (a *Agent) Stand(s link.Standing, _ string) {
	a.sections.stand(s)
	if s == link.Managed && a.orders != nil {
		for _, id := range a.orders.Lost() { // said again on each link: who knows it passes over it
			a.link.OrderKnown(id, string(exec.Indeterminate), 0)
		}
	}
}

// Whole is for package link.
func (a *Agent) Whole(announced section.Section) { a.sections.whole(announced) }

// parted is told that this machine becomes another host.
func (a *Agent) parted(i state.Identity) error {
	if err := a.sections.forget(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity = i
	return nil
}

// Delta is for package link.
func (a *Agent) Delta(d section.Delta) { a.sections.delta(d) }

// Order is for package link.
func (a *Agent) Order(o link.Order) {
	if o.Module != "" {
		a.restarts.order(o.ID, o.Module, o.Grant, o.NotAfter)
		return
	}
	if o.File != nil {
		a.files.Order(file.Order{ID: o.ID, NotAfter: o.NotAfter, Grant: o.Grant, Task: *o.File, Stream: o.Stream, Credential: o.Credential, Endpoint: o.Endpoint, Dial: o.Dial},
			func(why *fault.Error) { a.link.OrderRefused(o.ID, why) })
		return
	}
	a.orders.Order(exec.Order{
		ID: o.ID, NotAfter: o.NotAfter, Grant: o.Grant, Command: o.Exec, Stdin: o.Stdin, Prompt: o.Prompt, Dial: o.Dial,
	}, func(r exec.Report) {
		switch r.State {
		case exec.Refused:
			a.link.OrderRefused(r.ID, r.Fault)
		case exec.Begun:
			a.link.OrderBegun(r.ID)
		case exec.Ended:
			a.link.OrderEnded(r.ID, r.Stdout, r.Stderr, r.Result)
		default:
			a.link.OrderKnown(r.ID, string(r.State), r.ExitCode)
		}
	})
}

// Word is for package link.
func (a *Agent) Word(order string, stored, cancel bool) { a.orders.Word(order, stored, cancel) }

// Inventory is for package link.
func (a *Agent) Inventory() link.Inventory {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.inventory
}

// Health is that of every module.
func (a *Agent) Health() []host.Health {
	out := make([]host.Health, len(a.modules))
	for i, m := range a.modules {
		out[i] = m.Health()
	}
	return out
}

// HeartbeatBounds is for package link.
func (a *Agent) HeartbeatBounds() (least, most time.Duration) { return a.settings.HeartbeatBounds() }
