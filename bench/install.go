package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/lab"
)

const version = "0.1.0" // of the agent that is installed

// install measures the way from a blank Debian machine to a managed host: the served script, run as a person would run
// it, one machine after the other. The rival is what any installation comes to at least: dpkg, offline, with a package of
// the same program and a unit that it enables and starts; nothing is fetched, verified or enrolled.
func (b *bench) install(ctx context.Context) (_ []Result, err error) {
	if err := lab.Supported(); err != nil {
		fmt.Fprintln(os.Stderr, "install: skipped:", err)
		return nil, nil
	}
	network, err := lab.New(ctx, "bench", lab.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close(context.WithoutCancel(ctx))) }()
	d, err := b.serveReleases(ctx, network.HostAddress().String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Kill() }() // its data goes with it
	deb, err := b.debianPackage(ctx)
	if err != nil {
		return nil, err
	}
	var took, rival []time.Duration
	var cpu time.Duration
	for i := range b.hosts {
		m, err := network.Boot(ctx, lab.MachineOptions{Name: fmt.Sprintf("blank-%02d", i+1)})
		if err != nil {
			return nil, err
		}
		before, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		one, err := manage(ctx, d, m)
		if err != nil {
			return nil, fmt.Errorf("machine %d: %w", i+1, err)
		}
		after, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		took, cpu = append(took, one), cpu+after-before
		other, err := unpack(ctx, m, deb)
		if err != nil {
			return nil, fmt.Errorf("machine %d: %w", i+1, err)
		}
		rival = append(rival, other)
		if err := m.Remove(ctx); err != nil {
			return nil, err
		}
	}
	name := fmt.Sprintf("blank machine to managed, script included, %%s of %d", b.hosts)
	made := func(which string, part, target float64) Result {
		r := Result{Name: fmt.Sprintf(name, which), Unit: "s", Value: share(took, part).Seconds(), Rival: "dpkg -i of the same program and a unit, offline; no verification, no enrolment",
			RivalValue: share(rival, part).Seconds(), Target: target, Better: "lower", CPUSeconds: cpu.Seconds(), Runs: len(took)}
		r.Ratio, r.Met = r.Value/r.RivalValue, r.Value <= target
		return r
	}
	return []Result{made("p50", 0.5, 5), made("p99", 0.99, 10)}, nil
}

// serveReleases starts a control plane that machines reach and publishes an agent, with keys made for this run.
func (b *bench) serveReleases(ctx context.Context, address string) (*daemon.Daemon, error) {
	dir := filepath.Join(b.dir, "install")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	d, err := daemon.Start(ctx, daemon.Options{Program: b.program, Dir: dir, Host: address, Args: []string{"--log-level", "error"}})
	if err != nil {
		return nil, err
	}
	for _, build := range [][]string{
		{"-ldflags", "-s -w -X main.version=" + version, "-o", b.agentProgram(), "./cmd/loopback-agent"},
		{"-o", filepath.Join(b.dir, "loopback"), "./cmd/loopback"},
	} {
		if err := b.command(ctx, nil, "go", append([]string{"build", "-trimpath"}, build...)...); err != nil {
			return d, errors.Join(err, d.Kill())
		}
	}
	env := []string{"LOOPBACK_URL=" + d.URL, "LOOPBACK_API_KEY=" + d.Key, "LOOPBACK_CA_FILE=" + filepath.Join(d.DataDir, "keys", "ca.crt"), "XDG_CONFIG_HOME=" + filepath.Join(b.dir, "config")}
	err = b.command(ctx, env, filepath.Join(b.dir, "loopback"), "release", "publish", "--keys", filepath.Join(b.dir, "release-keys"),
		"--version", version, "--channel", "stable", filepath.Join(b.dir, "agents"))
	if err != nil {
		return d, errors.Join(err, d.Kill())
	}
	return d, nil
}

func (b *bench) agentProgram() string {
	return filepath.Join(b.dir, "agents", "linux-amd64", "loopback-agent")
}

func (b *bench) command(ctx context.Context, env []string, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = b.root, append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, out)
	}
	return nil
}

// manage installs on a machine and returns when the control plane shows it managed, with the time since the command was
// entered. The token is minted before, as it is for a person.
func manage(ctx context.Context, d *daemon.Daemon, m *lab.Machine) (time.Duration, error) {
	minted, err := d.Mint(ctx, 1)
	if err != nil {
		return 0, err
	}
	watching, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	hosts, err := d.Hosts.WatchHosts(watching, connect.NewRequest(&pb.WatchHostsRequest{}))
	if err != nil {
		return 0, err
	}
	defer hosts.Close()
	managed := make(chan time.Time, 1)
	go func() {
		defer close(managed)
		for hosts.Receive() {
			if h := hosts.Msg().GetChanged().GetHost(); h.GetName() == m.Name() && h.GetState() == "managed" {
				managed <- time.Now()
				return
			}
		}
	}()
	var said bytes.Buffer
	began := time.Now()
	code, err := m.Run(ctx, lab.Command{Args: []string{"sh", "-c", minted.GetInstallCommand()}, Env: []string{"LOOPBACK_TOKEN=" + minted.GetSecret()}, Stdout: &said, Stderr: &said})
	if err != nil || code != 0 {
		return 0, errors.Join(err, fmt.Errorf("the install script ended with code %d: %s", code, strings.TrimSpace(said.String())))
	}
	at, ok := <-managed
	if !ok {
		return 0, fmt.Errorf("%s was not managed within a minute: %w", m.Name(), hosts.Err())
	}
	return at.Sub(began), nil
}

// debianPackage wraps the same program into a package that enables and starts a unit.
func (b *bench) debianPackage(ctx context.Context) (string, error) {
	tree := filepath.Join(b.dir, "deb")
	program, err := os.ReadFile(b.agentProgram())
	if err != nil {
		return "", err
	}
	for name, file := range map[string]struct {
		mode    os.FileMode
		content string
	}{
		"DEBIAN/control":                             {0o644, "Package: rival-agent\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: a program and its unit\n"},
		"DEBIAN/postinst":                            {0o755, "#!/bin/sh\nset -e\nsystemctl daemon-reload\nsystemctl enable --now rival-agent.service\n"},
		"usr/lib/rival-agent/agent":                  {0o755, string(program)},
		"usr/lib/systemd/system/rival-agent.service": {0o644, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/rival-agent/agent version\n[Install]\nWantedBy=multi-user.target\n"},
	} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(file.content), file.mode); err != nil {
			return "", err
		}
	}
	deb := filepath.Join(b.dir, "rival-agent.deb")
	return deb, b.command(ctx, nil, "dpkg-deb", "--root-owner-group", "--build", tree, deb)
}

func unpack(ctx context.Context, m *lab.Machine, deb string) (time.Duration, error) {
	f, err := os.Open(deb)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := m.PutFile(ctx, "/root/rival-agent.deb", f, 0o644); err != nil {
		return 0, err
	}
	began := time.Now()
	r, err := m.Exec(ctx, "dpkg", "-i", "/root/rival-agent.deb")
	if err != nil || r.ExitCode != 0 {
		return 0, errors.Join(err, fmt.Errorf("dpkg ended with code %d: %s", r.ExitCode, r.Stderr))
	}
	return time.Since(began), nil
}
