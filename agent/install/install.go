// Package install puts the agent on a host, and takes it away.
//
//	/opt/loopback/versions/VERSION-SHA8/bin/loopback-agent   the program; this one and the one before are kept
//	/opt/loopback/current                                    symbolic link to the version that runs
//	/usr/local/bin/loopback-agent                            symbolic link, for people
//	/etc/loopback/agent.yaml, ca.pem                         settings
//	/etc/systemd/system/loopback-agent.service               the unit
//	/var/lib/loopback                                        identity, last good configuration
//	/var/lib/loopback/releases                               the newest release metadata that was seen
//
// Where a package brought the agent (package agent/packaged), unit and link are the package's, and /opt/loopback/packaged
// leads to the version that it put in place.
//
// The program that runs is the one that is installed: it looks for itself in the signed metadata of the releases, whose
// root the install script brought (or an earlier install kept), and does nothing unless it is there. Then it checks the
// host, copies itself beside the other versions, writes the settings, enrols, switches the link, starts the unit and
// waits until the agent says that it is managed. Each step is printed.
//
// A step that fails ends the installation with a stable code, a reason and what to do. Until the switch nothing runs that
// did not run before; what is already there, a staged program or settings, is what the next run starts from, so that
// running the installer again with a fresh token finishes the job. A step that finds its work done does nothing: a second
// run with nothing changed restarts nothing and says so. Settings that a person made in agent.yaml are kept.
//
// Two installations at once are kept apart by a lock; the second says who holds it, and waits.
package install

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/packaged"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

// Options say what to install and where. ParseOptions makes them of a command line.
type Options struct {
	Endpoint  string           // of the control plane; empty: as agent.yaml says
	Anchor    trust.AnchorHash // whom to trust; zero: as agent.yaml or the token says
	CAFile    string           // PEM that the endpoint's certificate is checked by; empty: as agent.yaml says, or the system's
	TrustRoot string           // file with the releases' root; empty: the one that an earlier install kept

	Version        string // that this program must be by its signed metadata; empty: any
	AllowDowngrade bool   // an older version may replace a newer one
	Channel        string // that this program must be on; empty: any

	TokenFile string    // "-": standard input
	Stdin     io.Reader // where a token may come from; nil: it does not
	Name      string    // of the host; empty: the system's
	Labels    label.Set // that the host asks for
	Allow     Allow     // what the control plane may do here

	Mirror string // URL of a copy of the releases; "none": the control plane's own; empty: as agent.yaml says
	Bundle string // folder with a copy of the releases, used this once; empty: there is none

	Proxy     string // "none": directly; empty: as ProxyFile, agent.yaml or the environment says
	ProxyFile string // that holds the proxy's URL
	Verbose   bool
	DryRun    bool
	Output    string // how the outcome is told: table, or json

	Wait     time.Duration // for the host to be managed; 0: not at all
	LockWait time.Duration // for another installation to end
}

// Allow changes the ceiling of agent.yaml; nil leaves it as it is.
type Allow struct{ Exec, Shell, Files, Power *bool }

// Enrolment is what a host is made known by.
type Enrolment struct {
	Config config.Config
	Store  *state.Store
	Token  token.Secret
	Name   string
	Labels label.Set
}

// Standing is what the running agent says of itself.
type Standing struct {
	Managed bool   // linked, approved, and its whole configuration applied
	State   string // "managed", "pending" or "quarantined"; empty: not known yet
	Linked  bool
	Refused bool   // for good: the agent does not try again by itself
	Trouble string // what stands in the way; empty: nothing
	Hint    string // what to do about it
}

// Installer installs. Make one with New.
type Installer struct {
	layout Layout
	// Enrol makes the host known to the control plane; package agent/link does it.
	enrol func(context.Context, Enrolment) (state.Identity, error)
	// Status asks the running agent; an error means that it does not answer yet.
	status  func(ctx context.Context, socket string) (Standing, error)
	open    func(c config.Config, outer *tls.Config, endpoint string) Opener
	proxy   func(config.Config) func(*http.Request) (*url.URL, error)
	systemd systemd
	getenv  func(string) string
	out     io.Writer
	clock   func() time.Time
}

// Seams are what other packages do for the installer.
type Seams struct {
	Enrol  func(context.Context, Enrolment) (state.Identity, error)
	Status func(ctx context.Context, socket string) (Standing, error)
	// Open makes TLS connections by the way that the link will take, proxies included; package agent/link does it. Its
	// errors have the link's codes.
	Open   func(c config.Config, outer *tls.Config, endpoint string) Opener
	Proxy  func(config.Config) func(*http.Request) (*url.URL, error) // by which a mirror is reached; package agent/link does it
	Getenv func(string) string                                       // of proxy settings
	Out    io.Writer                                                 // where the steps are printed
}

// Opener makes one connection.
type Opener func(context.Context) (*tls.Conn, error)

// New makes an installer for this machine.
func New(l Layout, s Seams) *Installer {
	return &Installer{
		layout: l, enrol: s.Enrol, status: s.Status, open: s.Open, proxy: s.Proxy, systemd: systemctl{}, getenv: s.Getenv, out: s.Out, clock: time.Now,
	}
}

// Result is what an installation came to.
type Result struct {
	Changed  bool   `json:"changed"`
	Version  string `json:"version,omitempty"`
	HostID   string `json:"hostId,omitempty"`
	HostName string `json:"hostName,omitempty"`
	State    string `json:"state,omitempty"` // of the host at the end; empty where it was not waited for
}

// Install installs the program that runs. Errors are *fault.Error; Result says how far it came.
func (i *Installer) Install(ctx context.Context, o Options) (Result, error) {
	r := &run{Installer: i, Options: o}
	err := r.install(ctx)
	if err != nil {
		err = fault.Of(err)
	}
	return r.result, err
}

// run is one installation.
type run struct {
	*Installer
	Options
	result  Result
	target  release.Target // what this program is, by signed metadata
	config  config.Config
	client  *http.Client
	token   token.Secret
	hasKey  bool // the host is enrolled
	changed bool // something that the running agent has to be restarted for
}

func (r *run) step(format string, args ...any) {
	fmt.Fprintf(r.out, "%s\n", fmt.Sprintf(format, args...))
}

func (r *run) detail(format string, args ...any) {
	if r.Verbose {
		r.step("  "+format, args...)
	}
}

func (r *run) install(ctx context.Context) error {
	text, err := TakeTokenFromEnvironment() // first: others may be waited for below
	if err != nil {
		return err
	}
	if err := r.layout.checkRoot(); err != nil {
		return err
	}
	defer syscall.Umask(syscall.Umask(0o022)) // programs and links are for everybody to see
	unlock, err := r.layout.lock(ctx, r.LockWait, func(holder string) { r.step("another installation is under way (%s); waiting for it", holder) }, r.DryRun)
	if err != nil {
		return err
	}
	defer unlock()
	identity, err := r.known()
	if err != nil {
		return err
	}
	if r.layout.isPackaged() && !r.DryRun {
		if err := r.layout.laySettings(); err != nil {
			return err
		}
	}
	if err := r.readToken(text); err != nil {
		return err
	}
	before, err := r.settle()
	if err != nil {
		return err
	}
	if err := r.preflight(ctx); err != nil {
		return err
	}
	if err := r.verify(ctx); err != nil {
		return err
	}
	if r.DryRun {
		return r.describe(before, identity)
	}
	if err := r.layout.sweepStaging(r.clock()); err != nil {
		return err
	}
	staged, fresh, err := r.layout.stage(r.target)
	if err != nil {
		return err
	}
	if fresh {
		r.result.Changed = true
		r.step("staged %s", staged)
	}
	if err := r.saveSettings(); err != nil {
		return err
	}
	if err := r.register(ctx, identity); err != nil {
		return err
	}
	if err := r.switchTo(staged); err != nil {
		return err
	}
	if err := r.start(ctx); err != nil {
		return err
	}
	if err := r.layout.prune(); err != nil {
		return err
	}
	return r.wait(ctx)
}

// known reads who this host is, without disturbing an agent that runs.
func (r *run) known() (state.Identity, error) {
	identity, err := state.ReadIdentity(r.layout.State())
	switch {
	case errors.Is(err, state.ErrNoIdentity):
		return state.Identity{}, nil
	case err != nil:
		return state.Identity{}, err
	}
	r.hasKey = identity.Enrolled()
	return identity, nil
}

var errNoToken = fault.New(fault.Invalid, "token_missing", "this host is not enrolled and there is no token to enrol it with").
	WithHint("mint one (loopback token mint) and give it in LOOPBACK_TOKEN, with --token-file FILE or on standard input")

// register enrols the host unless it is known already.
func (r *run) register(ctx context.Context, identity state.Identity) error {
	if r.hasKey {
		r.result.HostID, r.result.HostName = identity.HostID, identity.HostName
		r.detail("already enrolled as %s (%s)", identity.HostName, identity.HostID)
		return nil
	}
	// Without an identity an agent that runs is of no use, and holds the folder.
	if err := r.systemd.stop(ctx, UnitName); err != nil {
		return err
	}
	store, err := state.Open(r.layout.State())
	if err != nil {
		return err
	}
	defer store.Close()
	r.step("enrolling at %s as %s", strings.Join(r.config.Endpoints, ", "), r.Name)
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	identity, err = r.enrol(ctx, Enrolment{Config: r.config, Store: store, Token: r.token, Name: r.Name, Labels: r.Labels})
	if err != nil {
		e := *fault.Of(err)
		e.Message = "enrolling failed: " + e.Message
		return &e
	}
	r.hasKey, r.changed, r.result.Changed = true, true, true
	r.result.HostID, r.result.HostName = identity.HostID, identity.HostName
	r.step("enrolled as %s (%s)", identity.HostName, identity.HostID)
	return nil
}

const enrolTimeout = 2 * time.Minute

// switchTo makes the staged version the current one.
func (r *run) switchTo(staged string) error {
	changed, err := r.layout.point(r.layout.Current(), filepath.Join("versions", filepath.Base(staged)))
	if err != nil {
		return err
	}
	if changed {
		r.changed, r.result.Changed = true, true
		r.step("loopback-agent %s is current", r.target.Version)
	}
	if _, err := os.Lstat(r.layout.at(packaged.Link)); err == nil && r.layout.isPackaged() {
		return nil // people have it in their path already
	}
	link := r.layout.Link()
	if held, err := os.Lstat(link); err == nil && held.Mode()&os.ModeSymlink == 0 {
		r.step("%s is not ours and stays as it is", link)
		return nil
	}
	if err := durable.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return problem("make "+filepath.Dir(link), err)
	}
	changed, err = r.layout.point(link, r.layout.inside(filepath.Join(r.layout.Current(), "bin", release.Agent)))
	if changed {
		r.result.Changed = true
	}
	return err
}

// describe says what an installation would do.
func (r *run) describe(before config.Config, identity state.Identity) error {
	say := func(format string, args ...any) { r.step("would "+format, args...) }
	version := versionFolder(r.target)
	if current, err := os.Readlink(r.layout.Current()); err != nil || filepath.Base(current) != version {
		say("put loopback-agent %s into %s and make it current", r.target.Version, r.layout.version(version))
	}
	if !sameConfig(before, r.config) {
		say("write %s", r.layout.Config())
	}
	if r.hasKey {
		r.step("this host is enrolled already as %s (%s)", identity.HostName, identity.HostID)
	} else {
		say("enrol this host at %s as %s", strings.Join(r.config.Endpoints, ", "), r.Name)
	}
	if held, err := os.ReadFile(r.layout.Unit()); !r.layout.unitIsBrought() && (err != nil || string(held) != r.layout.unit()) {
		say("write %s", r.layout.Unit())
	}
	say("start %s where something changed, and wait until it is managed", UnitName)
	r.step("dry run: nothing was changed")
	return nil
}
