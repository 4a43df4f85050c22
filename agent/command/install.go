package command

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"os"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/install"
	"github.com/loopbackd/loopback/agent/inventory"
	agentlink "github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/fault"
)

func runInstall(ctx context.Context, env Environment, args []string) error {
	p, other, err := install.ParsePackageOptions(args, env.Stdout)
	if errors.Is(err, install.ErrHelp) {
		return flag.ErrHelp
	}
	if err != nil {
		return err
	}
	if !other {
		return installer(env, env.Stdout).ConfigurePackage(ctx, p)
	}
	o, err := install.ParseOptions(args, env.Stdin, env.Stdout)
	if errors.Is(err, install.ErrHelp) {
		return flag.ErrHelp
	}
	if err != nil {
		return err
	}
	if o.Output != "json" {
		_, err = installer(env, env.Stdout).Install(ctx, o)
		return err
	}
	out, failed := installer(env, env.Stderr).Install(ctx, o)
	return errors.Join(printJSON(env.Stdout, outcome(out, failed)), failed)
}

// outcome is what an installation came to, as JSON. What went wrong has the code that the doctor would name it by.
func outcome(r install.Result, err error) any {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	}
	out := struct {
		install.Result
		OK    bool     `json:"ok"`
		Error *problem `json:"error,omitempty"`
	}{Result: r, OK: err == nil}
	if err != nil {
		f := fault.Of(err)
		out.Error = &problem{f.Code, f.Error(), f.Hint}
	}
	return out
}

func runUninstall(ctx context.Context, env Environment, args []string) error {
	o, err := install.ParseUninstallOptions(args, env.Stdout)
	if errors.Is(err, install.ErrHelp) {
		return flag.ErrHelp
	}
	if err != nil {
		return err
	}
	return installer(env, env.Stdout).Uninstall(ctx, o)
}

// installer of this machine, which tells its steps.
func installer(env Environment, steps io.Writer) *install.Installer {
	return install.New(install.Layout{}, install.Seams{
		Enrol: func(ctx context.Context, e install.Enrolment) (state.Identity, error) {
			seen := inventory.Source{}.Gather(env.Version)
			name := e.Name
			if name == "" {
				name = seen.HostName
			}
			return agentlink.Enrol(ctx, agentlink.EnrolOptions{
				Config: e.Config, Store: e.Store, Token: e.Token, HostName: name, Version: env.Version, Inventory: seen, Labels: e.Labels,
			})
		},
		Status: standing,
		Open: func(c config.Config, outer *tls.Config, endpoint string) install.Opener {
			return agentlink.Open(c, outer, endpoint)
		},
		Proxy:  agentlink.Proxy,
		Getenv: os.Getenv,
		Out:    steps,
	})
}

// standing is what an installation waits for, out of the running agent's report.
func standing(ctx context.Context, socket string) (install.Standing, error) {
	r, err := status.Fetch(ctx, socket)
	if err != nil {
		return install.Standing{}, err
	}
	s := install.Standing{Managed: r.OK, State: r.Standing, Linked: r.State == "linked", Refused: r.State == "refused", Trouble: r.Reason}
	if r.LastError != nil && !s.Linked {
		s.Trouble, s.Hint = r.LastError.Message, r.LastError.Hint
	}
	return s, nil
}
