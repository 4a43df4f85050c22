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
	Packaged bool // the package goes as well, and the program with it
	DryRun   bool
	LockWait time.Duration
}

// Uninstall stops the agent and removes all that Install made. Without Purge the identity and the settings stay, so that
// installing again needs no token. What a package brought stays unless the package itself is going. What is not there is not missed: an uninstall that was interrupted is repeated.
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
	keep := i.layout.isPackaged() && !o.Packaged
	gone := i.made(o.Purge, keep)
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
	case keep:
		step("the program stays, which a package brought: remove the package loopback-agent to be rid of it, too")
	case o.Packaged:
		step("the identity (%s) and the settings (%s) stay", i.layout.State(), filepath.Dir(i.layout.Config()))
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

// made are the paths of ours that are there. keepProgram leaves what a package put in place, and the folder that it owns.
func (i *Installer) made(purge, keepProgram bool) []string {
	l := i.layout
	all := []string{l.Unit(), filepath.Dir(l.Socket())}
	if !keepProgram {
		all = append(all, l.Base())
	}
	if target, err := os.Readlink(l.Link()); err == nil && strings.HasPrefix(target, l.inside(l.Base())+"/") {
		all = append(all, l.Link())
	}
	if purge {
		all = append(all, l.State())
		if keepProgram {
			all = append(all, l.Config(), l.CAFile())
		} else {
			all = append(all, filepath.Dir(l.Config()))
		}
	}
	var out []string
	for _, path := range all {
		if _, err := os.Lstat(path); err == nil {
			out = append(out, path)
		}
	}
	return out
}
