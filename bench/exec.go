package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentexec "github.com/loopbackd/loopback/agent/exec"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

const (
	execPairs  = 15       // of `true`, in a round
	execOutput = 64 << 20 // bytes of a large output
)

// exec measures commands on one host beside `ssh -T`, both as a person types them: a program that starts, connects, proves who it
// is, and shows what came of it. Loopback's also writes the order, its end and the audit log to disk. Of a large output both carry
// every byte from the host; ssh gives it to its user, while Loopback's control plane keeps the first MiB and counts the rest.
func (b *bench) exec(ctx context.Context) (_ []Result, err error) {
	ssh, err := b.startSSHD(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ssh.close()) }()
	d, err := b.start(ctx, "exec")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Kill()) }()
	own, err := b.commands(ctx, d)
	if err != nil {
		return nil, err
	}
	agents, err := simulated(ctx, d, 0, 1)
	if err != nil {
		return nil, err
	}
	x := agentexec.New(agentexec.Options{Dir: filepath.Join(b.dir, "orders"), Allow: host.Ceiling{Exec: true}, Now: time.Now, Runner: agentexec.Plain{}})
	defer x.Close()
	agents[0].Carry(x)
	f := fleet.Run(ctx, 1, 1, func(int) *fleet.Agent { return agents[0] })
	defer f.Stop()
	if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Linked == 1 }); err != nil {
		return nil, err
	}
	on := agents[0].Name
	latency := figure{Result: Result{Name: "`true` on a host", Unit: "ms", Rival: "ssh -T", Better: "lower"}}
	output := figure{Result: Result{Name: "a command's output", Unit: "MB/s", Rival: "ssh -T", Better: "higher"}}
	for range b.rounds {
		before, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		var ours, theirs []float64
		for range execPairs {
			took, err := timed(own(ctx, on, "true"))
			if err != nil {
				return nil, err
			}
			rival, err := timed(ssh.run(ctx, "true"))
			if err != nil {
				return nil, err
			}
			ours, theirs = append(ours, took.Seconds()*1e3), append(theirs, rival.Seconds()*1e3)
		}
		after, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		latency.add(median(ours), median(theirs), after-before)
		took, err := timed(own(ctx, on, "head", "-c", strconv.Itoa(execOutput), "/dev/zero"))
		if err != nil {
			return nil, err
		}
		rival, err := timed(ssh.run(ctx, "head", "-c", strconv.Itoa(execOutput), "/dev/zero"))
		if err != nil {
			return nil, err
		}
		last, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		output.add(execOutput/took.Seconds()/1e6, execOutput/rival.Seconds()/1e6, last-after)
	}
	latency.Target, output.Target = median(latency.rivals), median(output.rivals)
	return []Result{latency.result(), output.result()}, nil
}

// commands is how a person who may runs a command on a host.
func (b *bench) commands(ctx context.Context, d *daemon.Daemon) (func(ctx context.Context, host string, command ...string) *exec.Cmd, error) {
	program := filepath.Join(b.dir, "loopback")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/loopback")
	build.Dir, build.Stderr = b.root, os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building loopback: %w", err)
	}
	account, err := d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "runner"}))
	if err != nil {
		return nil, err
	}
	role, err := d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "commands", Permissions: []string{"exec.run", "exec.read", "exec.cancel", "hosts.read", "workspaces.read"}}))
	if err != nil {
		return nil, err
	}
	if _, err := d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{
		ServiceAccount: account.Msg.Id, Role: role.Msg.Id, NotAfter: timestamppb.New(time.Now().Add(time.Hour)),
	})); err != nil {
		return nil, err
	}
	key, err := d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "runner", ServiceAccount: account.Msg.Id, Permissions: []string{"*", "exec.run"}}))
	if err != nil {
		return nil, err
	}
	environment := append(os.Environ(), "LOOPBACK_URL="+d.URL, "LOOPBACK_API_KEY="+key.Msg.Secret, "LOOPBACK_CA_FILE="+filepath.Join(d.DataDir, "keys", "ca.crt"), "LOOPBACK_WORKSPACE=default", "HOME="+b.dir)
	return func(ctx context.Context, host string, command ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, program, append([]string{"exec", "--reason", "a benchmark", host, "--"}, command...)...)
		c.Env = environment
		return c
	}, nil
}

// timed runs a program whose output nobody wants.
func timed(c *exec.Cmd) (time.Duration, error) {
	began := time.Now()
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w", c.Args[0], err)
	}
	return time.Since(began), nil
}
