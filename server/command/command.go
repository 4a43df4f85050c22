// Package command keeps commands that one operator saved and another approved, and has them, and the checks that are built in, run.
//
// To run one takes commands.run (or checks.run) on each host, no more: the run is started for the caller by the slice of commands,
// which asks for that permission wherever it would ask for exec.run, at the start and while it goes on. What is run is the version
// that is approved at that moment, with the caller's values in it, and the audit log says so before any host hears of it.
package command

import (
	"context"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/command"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads saved commands.
type Reader interface {
	SavedCommand(ctx context.Context, id string) (command.Saved, error)
	SavedCommands(ctx context.Context, q command.Query) ([]command.Saved, string, error)
	// SavedVersions are all of a name in a workspace, newest first.
	SavedVersions(ctx context.Context, workspaceID, name string) ([]command.Saved, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutSavedCommand(ctx context.Context, s command.Saved) (command.Saved, error)
	DeleteSavedCommand(ctx context.Context, s command.Saved) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace where the caller holds a permission.
type Tenants interface {
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
	Frame(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Target is where something is run, and how many at a time.
type Target struct {
	Workspace                        string
	Hosts                            []string
	Selector                         string
	All                              bool
	Concurrency, MaxFailures, Canary int
	RequestID                        string
}

// Runs start runs for the caller, who holds the permission that is named on every host of the target. By says which that is, and what
// is run.
type Runs interface {
	StartAs(ctx context.Context, c exec.Command, by exec.Actor, t Target) (exec.Run, error)
}

// Service is saved commands and checks.
type Service struct {
	store   Store
	tenants Tenants
	runs    Runs
	now     func() time.Time
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, runs Runs, now func() time.Time) *Service {
	return &Service{store, tenants, runs, now}
}

// record is a version as the audit log shows it.
type record struct {
	Version    int                 `json:"version"`
	Arguments  []string            `json:"arguments"`
	Shell      bool                `json:"shell,omitempty"`
	User       string              `json:"user,omitempty"`
	Parameters []command.Parameter `json:"parameters,omitempty"`
	State      command.State       `json:"state"`
	By         string              `json:"by,omitempty"`
}

func describe(s command.Saved) record {
	return record{s.Version, s.Command.Arguments, s.Command.Shell, s.Command.User, s.Parameters, s.State, s.ByName}
}

// Save writes the next version of a command.
func (s *Service) Save(ctx context.Context, workspace string, n command.Saved) (command.Saved, error) {
	w, err := s.tenants.Workspace(ctx, workspace, command.Save)
	if err != nil {
		return command.Saved{}, err
	}
	if n.Command.Timeout == 0 {
		n.Command.Timeout = exec.DefaultTimeout
	}
	if err := n.Validate(); err != nil {
		return command.Saved{}, err
	}
	actor := access.ActorFrom(ctx)
	n.ID, n.Scope, n.State, n.By, n.ByName = id.New("cmd", s.now()), w.Scope(), command.Pending, actor.Principal, actor.Name
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.SavedVersions(ctx, w.ID, n.Name)
		if err != nil {
			return err
		}
		if n.Version = 1; len(before) > 0 {
			n.Version = before[0].Version + 1
		}
		if n, err = tx.PutSavedCommand(ctx, n); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, command.Save, n.Scope, n.ID, n.Name).Change(nil, describe(n)))
	})
	return n, err
}

// errOwn is the answer to who approves what they saved.
var errOwn = fault.New(fault.Denied, "command_own", "nobody approves a command that they saved themselves").
	WithHint("ask somebody else who holds %s", command.Approve)

// Approve makes a version the one that is run.
func (s *Service) Approve(ctx context.Context, commandID string) (command.Saved, error) {
	var out command.Saved
	actor := access.ActorFrom(ctx)
	err := s.store.Write(ctx, func(tx Tx) error {
		v, err := permitted(ctx, tx, commandID, command.Approve)
		if err != nil {
			return err
		}
		switch {
		case v.State == command.Approved:
			out = v
			return nil
		case v.State == command.Replaced:
			return fault.New(fault.Precondition, "command_replaced", "version %d of %s was replaced; save it again to go back to it", v.Version, v.Name)
		case v.By == actor.Principal:
			return errOwn
		}
		all, err := tx.SavedVersions(ctx, v.Scope.Workspace, v.Name)
		if err != nil {
			return err
		}
		for _, other := range all {
			if other.Version > v.Version && other.State == command.Approved {
				return fault.New(fault.Precondition, "command_replaced", "version %d of %s is approved already, which is newer", other.Version, v.Name)
			}
			// What was never approved before a later version is, is not to be approved behind its back.
			if other.Version < v.Version && other.State != command.Replaced {
				other.State = command.Replaced
				if _, err := tx.PutSavedCommand(ctx, other); err != nil {
					return err
				}
			}
		}
		before := describe(v)
		v.State, v.ApprovedBy, v.Approver, v.ApprovedAt = command.Approved, actor.Principal, actor.Name, s.now().UTC()
		if out, err = tx.PutSavedCommand(ctx, v); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, command.Approve, out.Scope, out.ID, out.Name).Change(before, describe(out)))
	})
	return out, err
}

func permitted(ctx context.Context, r Reader, commandID string, p access.Permission) (command.Saved, error) {
	v, err := r.SavedCommand(ctx, commandID)
	if fault.KindOf(err) == fault.NotFound {
		return command.Saved{}, access.NotFound("command " + commandID)
	}
	if err != nil {
		return command.Saved{}, err
	}
	if err := access.ActorFrom(ctx).Require(p, v.Scope, command.Read, "command "+commandID); err != nil {
		return command.Saved{}, err
	}
	return v, nil
}

// Get is a version by id; or, by name, the one that is approved, or the newest where none is.
func (s *Service) Get(ctx context.Context, ref, workspace string) (command.Saved, error) {
	if id.Valid("cmd", ref) {
		return permitted(ctx, s.store.View(), ref, command.Read)
	}
	w, err := s.tenants.Workspace(ctx, workspace, command.Read)
	if err != nil {
		return command.Saved{}, err
	}
	all, err := s.store.View().SavedVersions(ctx, w.ID, ref)
	if err != nil {
		return command.Saved{}, err
	}
	if len(all) == 0 {
		return command.Saved{}, access.NotFound("command " + ref)
	}
	return current(all), nil
}

// current is the version of a name that is run, or the newest where none is approved.
func current(all []command.Saved) command.Saved {
	for _, v := range all {
		if v.State == command.Approved {
			return v
		}
	}
	return all[0]
}

// List is versions that the caller may read, newest first.
func (s *Service) List(ctx context.Context, workspace string, q command.Query) ([]command.Saved, string, error) {
	if workspace != "" {
		w, err := s.tenants.Frame(ctx, workspace, command.Read)
		if err != nil {
			return nil, "", err
		}
		q.Within = w.Scope()
	}
	q.Readable = access.ActorFrom(ctx).Readable(command.Read)
	return s.store.View().SavedCommands(ctx, q)
}

// Delete deletes all versions of a command.
func (s *Service) Delete(ctx context.Context, commandID string) error {
	return s.store.Write(ctx, func(tx Tx) error {
		v, err := permitted(ctx, tx, commandID, command.Delete)
		if err != nil {
			return err
		}
		all, err := tx.SavedVersions(ctx, v.Scope.Workspace, v.Name)
		if err != nil {
			return err
		}
		for _, one := range all {
			if err := tx.DeleteSavedCommand(ctx, one); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), command.Delete, v.Scope, v.ID, v.Name).Change(describe(v), nil))
	})
}

// Run runs the approved version of a command. Where the caller may run it is decided host by host.
func (s *Service) Run(ctx context.Context, ref string, values map[string]string, t Target) (exec.Run, error) {
	v, err := s.runnable(ctx, ref, t.Workspace)
	if err != nil {
		return exec.Run{}, err
	}
	if v.State != command.Approved {
		refused := fault.New(fault.Precondition, "command_not_approved", "version %d of %s is %s", v.Version, v.Name, v.State)
		if v.State == command.Replaced {
			return exec.Run{}, refused.WithHint("run the version that replaced it, by its name: loopback command run %s", v.Name)
		}
		return exec.Run{}, refused.WithHint("somebody else than %s approves it: loopback command approve %s", v.ByName, v.ID)
	}
	c, err := v.With(values)
	if err != nil {
		return exec.Run{}, err
	}
	t.Workspace = v.Scope.Workspace // a command of one workspace is not run in another
	return s.runs.StartAs(ctx, c, exec.Actor{Permission: command.Run, As: v.Title(), Of: exec.Origin{Saved: v.ID, Values: values}}, t)
}

// runnable finds a command for who may run it somewhere in its workspace, were it on some hosts alone.
func (s *Service) runnable(ctx context.Context, ref, workspace string) (command.Saved, error) {
	actor := access.ActorFrom(ctx)
	sees := func(at access.Scope) bool { return actor.Readable(command.Run).Within(at) }
	if id.Valid("cmd", ref) {
		v, err := s.store.View().SavedCommand(ctx, ref)
		if err == nil && !sees(v.Scope) || fault.KindOf(err) == fault.NotFound {
			err = access.NotFound("command " + ref)
		}
		return v, err
	}
	w, err := s.tenants.Frame(ctx, workspace, command.Run)
	if err != nil {
		return command.Saved{}, err
	}
	all, err := s.store.View().SavedVersions(ctx, w.ID, ref)
	if err == nil && (len(all) == 0 || !sees(w.Scope())) {
		err = access.NotFound("command " + ref)
	}
	if err != nil {
		return command.Saved{}, err
	}
	return current(all), nil
}

// Check runs a check.
func (s *Service) Check(ctx context.Context, name string, t Target) (exec.Run, error) {
	c, ok := command.CheckNamed(name)
	if !ok {
		names := make([]string, len(command.Checks))
		for i, c := range command.Checks {
			names[i] = c.Name
		}
		return exec.Run{}, fault.New(fault.NotFound, "check_unknown", "there is no check %q", name).WithHint("there are %s", strings.Join(names, ", "))
	}
	return s.runs.StartAs(ctx, c.Command, exec.Actor{Permission: command.RunOne, As: "check " + c.Name, Of: exec.Origin{Check: c.Name}}, t)
}
