package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/agent/packaged"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// PackageOptions are what a package's script says.
type PackageOptions struct {
	Version  string // of the package
	LockWait time.Duration
}

// isPackaged tells whether a package brought the agent to this host.
func (l Layout) isPackaged() bool {
	_, err := os.Stat(l.at(packaged.Program))
	return err == nil
}

// Packaged links to the version that the package put in place last.
func (l Layout) Packaged() string { return l.at("/opt/loopback/packaged") }

// ConfigurePackage puts the program of a package in place after it was unpacked: what runs is a copy beside the other
// versions, so that neither the package manager nor the agent takes the other's files away. It makes that copy current
// unless the agent has gone on to a newer version by itself; it lays down settings where there are none; and it restarts
// an agent that runs. It neither verifies (the package manager did) nor enrols: `loopback-agent install` does, once the
// operator has said where and with what token.
func (i *Installer) ConfigurePackage(ctx context.Context, o PackageOptions) error {
	r := &run{Installer: i, Options: Options{Version: o.Version, LockWait: o.LockWait}}
	if err := r.configurePackage(ctx); err != nil {
		return fault.Of(err)
	}
	return nil
}

func (r *run) configurePackage(ctx context.Context) error {
	if err := r.layout.checkRoot(); err != nil {
		return err
	}
	defer syscall.Umask(syscall.Umask(0o022))
	unlock, err := r.layout.lock(ctx, r.LockWait, func(holder string) { r.step("another installation is under way (%s); waiting for it", holder) }, false)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.isThis(); err != nil {
		return err
	}
	if err := r.layout.sweepStaging(r.clock()); err != nil {
		return err
	}
	staged, _, err := r.layout.stage(r.target)
	if err != nil {
		return err
	}
	if err := r.layout.laySettings(); err != nil {
		return err
	}
	first, err := r.follow(filepath.Join("versions", filepath.Base(staged)))
	if err != nil {
		return err
	}
	if err := r.layout.prune(); err != nil {
		return err
	}
	return r.settlePackage(ctx, first)
}

// isThis takes the program that runs for what the package says it is.
func (r *run) isThis() error {
	program, err := self()
	if err != nil {
		return err
	}
	sum, err := hashOf(program)
	info, statErr := program.Stat()
	if err := errors.Join(err, statErr, program.Close()); err != nil {
		return problem("read the program that runs", err)
	}
	r.target = release.Target{Name: release.Agent, Version: r.Version, OS: runtime.GOOS, Architecture: runtime.GOARCH, Length: info.Size(), SHA256: sum}
	return nil
}

// follow makes the package's version current where it is newer, or where what is current came from the package as well:
// then even an older one is what the package manager was told to install. It tells whether this is the first package here.
func (r *run) follow(target string) (first bool, err error) {
	was, err := os.Readlink(r.layout.Packaged())
	if first = errors.Is(err, fs.ErrNotExist); err != nil && !first {
		return false, problem("read "+r.layout.Packaged(), err)
	}
	if _, err := r.layout.point(r.layout.Packaged(), target); err != nil {
		return false, err
	}
	current, err := os.Readlink(r.layout.Current())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, problem("read "+r.layout.Current(), err)
	}
	held := r.layout.currentVersion()
	if _, err := os.Stat(r.layout.Current()); err == nil && current != was && release.CompareVersions(r.Version, held) < 0 {
		r.step("loopback-agent %s is newer than the package's %s, and stays", held, r.Version)
		return first, nil
	}
	r.changed, err = r.layout.point(r.layout.Current(), target)
	if r.changed {
		r.step("loopback-agent %s is current", r.Version)
	}
	return first, err
}

// laySettings puts down the settings that a package brought, where the host has none.
func (l Layout) laySettings() error {
	for _, f := range []struct {
		from, to string
		mode     fs.FileMode
	}{{packaged.CA, l.CAFile(), 0o644}, {packaged.Settings, l.Config(), 0o600}} {
		brought, err := os.ReadFile(l.at(f.from))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return problem("read "+f.from, err)
		}
		if _, err := os.Lstat(f.to); err == nil {
			continue
		}
		if _, err := replace(f.to, brought, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// settlePackage has systemd use the package's unit. An agent that runs is restarted; one of a host that is enrolled is
// started when the package is new here. Where somebody stopped or disabled it, it stays so.
func (r *run) settlePackage(ctx context.Context, first bool) error {
	ours, err := os.ReadFile(r.layout.Unit())
	shadowed := err == nil && isOurUnit(ours)
	booted := r.systemd.check(ctx) == nil
	if shadowed {
		// It would hide the package's.
		if booted {
			if err := r.systemd.disable(ctx, UnitName); err != nil {
				return err
			}
		}
		if err := os.Remove(r.layout.Unit()); err != nil {
			return problem("remove "+r.layout.Unit(), err)
		}
	}
	identity, err := state.ReadIdentity(r.layout.State())
	enrolled := err == nil && identity.Enrolled()
	if !enrolled {
		r.step("to enrol this host: loopback-agent install --endpoint https://HOST:PORT --token-file FILE")
	}
	if !booted {
		return nil
	}
	if err := r.systemd.reload(ctx); err != nil {
		return err
	}
	active, err := r.systemd.active(ctx, UnitName)
	if err != nil {
		return err
	}
	start := enrolled && (first || shadowed)
	if start {
		if _, err := r.systemd.enable(ctx, UnitName); err != nil {
			return err
		}
	}
	if start || active && r.changed {
		// A package manager that is told of a failure leaves half a package; the agent is tried again by systemd anyway.
		if err := r.systemd.restart(ctx, UnitName); err != nil {
			e := fault.Of(err)
			r.step("warning: %s (%s)", e.Message, e.Hint)
		}
	}
	return nil
}
