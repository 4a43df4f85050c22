package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// UninstallOptions say how much to remove.
type UninstallOptions struct {
	Purge    bool // the identity and the settings as well
	DryRun   bool
	LockWait time.Duration
}

// Uninstall stops the agent and removes all that Install made. Without Purge the identity and the settings stay, so that
// installing again needs no token. What is not there is not missed: an uninstall that was interrupted is repeated.
func (i *Installer) Uninstall(ctx context.Context, o UninstallOptions) error {
	if err := i.layout.checkRoot(); err != nil {
		return err
	}
	step := func(format string, args ...any) { fmt.Fprintf(i.out, format+"\n", args...) }
	unlock, err := i.layout.lock(ctx, o.LockWait, func(holder string) { step("another installation is under way (%s); waiting for it", holder) }, o.DryRun)
	if err != nil {
		return fault.Of(err)
	}
	defer unlock()
	gone := i.made(o.Purge)
	if o.DryRun {
		for _, path := range gone {
			step("would remove %s", path)
		}
		step("dry run: nothing was changed")
		return nil
	}
	if err := i.systemd.check(ctx); err == nil {
		if err := i.systemd.stop(ctx, UnitName); err != nil {
			return fault.Of(err)
		}
		if err := i.systemd.disable(ctx, UnitName); err != nil {
			return fault.Of(err)
		}
	}
	for _, path := range gone {
		if err := os.RemoveAll(path); err != nil {
			return fault.Of(problem("remove "+path, err))
		}
		step("removed %s", path)
	}
	if err := i.systemd.check(ctx); err == nil {
		if err := i.systemd.reload(ctx); err != nil {
			return fault.Of(err)
		}
	}
	switch {
	case len(gone) == 0:
		step("nothing is installed here")
	case !o.Purge:
		step("the identity (%s) and the settings (%s) stay; --purge removes them, too", i.layout.State(), filepath.Dir(i.layout.Config()))
	default:
		step("the control plane shows this host as offline until it is removed there: loopback host remove")
	}
	if err := os.Remove(i.layout.lockFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Of(problem("remove the lock", err))
	}
	return nil
}

// made are the paths of ours that are there.
func (i *Installer) made(purge bool) []string {
	l := i.layout
	all := []string{l.Unit(), l.Base(), filepath.Dir(l.Socket())}
	if target, err := os.Readlink(l.Link()); err == nil && strings.HasPrefix(target, l.inside(l.Base())+"/") {
		all = append(all, l.Link())
	}
	if purge {
		all = append(all, filepath.Dir(l.Config()), l.State())
	}
	var out []string
	for _, path := range all {
		if _, err := os.Lstat(path); err == nil {
			out = append(out, path)
		}
	}
	return out
}
