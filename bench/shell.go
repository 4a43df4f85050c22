package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/port"
	"github.com/loopbackd/loopback/test/terminal"
	"github.com/loopbackd/loopback/wire"
)

// Sizes of the area shell.
const (
	pairs      = 10       // of a round: both sides in turn
	keys       = 100      // typed by each side in a pair
	flood      = 64 << 20 // bytes that a program writes to the terminal
	typists    = 100      // at the same time
	typeEvery  = 200 * time.Millisecond
	typeFor    = 10 * time.Second
	idleShells = 1000
	shellHosts = 50
)

// shell measures a shell as somebody at a command line has it, beside OpenSSH: `loopback shell` and `ssh -tt`, each a process of its own,
// to a loopbackd and a host's end in processes of their own, and to a sshd. Ours goes through the control plane and is recorded twice;
// theirs goes straight to the host and is not. The client of Debian 12 is older than ObscureKeystrokeTiming; where it is known it is off.
func (b *bench) shell(ctx context.Context) (_ []Result, err error) {
	const ssh = "ssh -tt to sshd on loopback, straight and unrecorded"
	p50 := &figure{Result: Result{Name: "key to echo, median", Unit: "µs", Rival: ssh, Better: "lower"}}
	p99 := &figure{Result: Result{Name: "key to echo, p99", Unit: "µs", Rival: ssh, Better: "lower"}}
	output := &figure{Result: Result{Name: "output of a program in the terminal", Unit: "MB/s", Rival: ssh, Better: "higher"}}
	crowded := &figure{Result: Result{Name: fmt.Sprintf("key to echo, p99, %d typists", typists), Unit: "ms", Target: 5, Better: "lower"}}
	memory := &figure{Result: Result{Name: fmt.Sprintf("server memory a session, %d idle and watched by who typed", idleShells), Unit: "KiB", Target: 64, Better: "lower"}}
	d, err := b.start(ctx, "shell")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Kill()) }()
	if err := b.command(ctx, nil, "go", "build", "-o", filepath.Join(b.dir, "loopback"), "./cmd/loopback"); err != nil {
		return nil, err
	}
	hosts, err := b.startShells(ctx, d, shellHosts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hosts.close()) }()
	people, err := shellPeople(ctx, d, idleShells/shell.MaxPerUser+1)
	if err != nil {
		return nil, err
	}
	sshd, err := b.startSSHD(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sshd.close()) }()
	first, rest := people[0], people[1:]
	for range b.rounds {
		if err = b.shellPairs(ctx, d, first, sshd, p50, p99, output); err != nil {
			break
		}
		var took []time.Duration
		if took, err = crowdTypes(ctx, d, rest); err != nil {
			break
		}
		crowded.add(float64(share(took, 0.99).Microseconds())/1000, 0, 0)
	}
	if err == nil {
		var each float64
		if each, err = idleMemory(ctx, d, rest); err == nil {
			memory.add(each, 0, 0)
		}
	}
	return []Result{against(p50, func(r float64) float64 { return r + 35 }), against(p99, func(r float64) float64 { return r }),
		against(output, func(r float64) float64 { return 2 * r }), crowded.result(), memory.result()}, err
}

// endShells ends all sessions.
func endShells(ctx context.Context, d *daemon.Daemon) error {
	all, err := d.Shells.ListShellSessions(ctx, connect.NewRequest(&pb.ListShellSessionsRequest{States: []string{"opening", "running"}, Page: &pb.Page{Size: 1000}}))
	if err != nil {
		return err
	}
	return each(len(all.Msg.Items), 16, func(i int) error {
		_, err := d.Shells.KillShellSession(ctx, connect.NewRequest(&pb.KillShellSessionRequest{Session: all.Msg.Items[i].Id, Comment: "measured"}))
		if connect.CodeOf(err) == connect.CodeFailedPrecondition { // it has ended meanwhile
			return nil
		}
		return err
	})
}

// against is a figure whose target depends on the rival's.
func against(f *figure, target func(rival float64) float64) Result {
	f.Target = target(median(f.rivals))
	return f.result()
}

// startShells starts a process that is so many hosts with shells.
func (b *bench) startShells(ctx context.Context, d *daemon.Daemon, n int) (*rival, error) {
	minted, err := d.Mint(ctx, n)
	if err != nil {
		return nil, err
	}
	roots, err := os.ReadFile(filepath.Join(d.DataDir, "keys", "ca.crt"))
	if err != nil {
		return nil, err
	}
	m, err := json.Marshal(mission{URL: d.URL, Roots: roots, Anchor: d.Anchor, Token: minted.GetSecret(), N: n})
	if err != nil {
		return nil, err
	}
	r, _, err := b.startRival(ctx, "shells", filepath.Join(b.dir, "recordings"))
	if err != nil {
		return nil, err
	}
	if _, err := r.ask(string(m)); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// playShells is such a process, until its input ends.
func playShells(dir string) error {
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var m mission
	if err := json.Unmarshal(line, &m); err != nil {
		return err
	}
	var all members
	if err := all.make(m); err != nil {
		return err
	}
	machine := &terminal.Machine{Dir: dir}
	defer machine.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	f := fleet.Run(ctx, m.N, abreast, func(i int) *fleet.Agent {
		all.agents[i].Shell, all.agents[i].Pace, all.agents[i].Reported = machine.Begin, nil, nil
		return all.agents[i]
	})
	defer f.Stop()
	if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Linked == m.N }); err != nil {
		return err
	}
	fmt.Println("linked")
	_, err = io.Copy(io.Discard, in)
	return err
}

// shellPeople are keys of so many who may have shells.
func shellPeople(ctx context.Context, d *daemon.Daemon, n int) ([]string, error) {
	role, err := d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "sheller", Permissions: []string{"shell_sessions.open", "shell_sessions.*", "hosts.read", "workspaces.read"}}))
	if err != nil {
		return nil, err
	}
	out := make([]string, n)
	for i := range out {
		name := fmt.Sprintf("typist-%03d", i)
		account, err := d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: name}))
		if err != nil {
			return nil, err
		}
		if _, err := d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Msg.Id, Role: role.Msg.Id, NotAfter: timestamppb.New(time.Now().Add(2 * time.Hour))})); err != nil {
			return nil, err
		}
		key, err := d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: name, ServiceAccount: account.Msg.Id, Permissions: []string{"*", "shell_sessions.open"}}))
		if err != nil {
			return nil, err
		}
		out[i] = key.Msg.Secret
	}
	return out, nil
}

// endOfTerminal is a program at whose other end there is a terminal on a host.
type endOfTerminal struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

func begin(command *exec.Cmd) (*endOfTerminal, error) {
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &endOfTerminal{command, in, bufio.NewReaderSize(out, 256<<10)}, command.Start()
}

// does has the shell run a line, and returns when that has written its last word, which the line must not hold as it is.
func (e *endOfTerminal) does(line, word string) error {
	if _, err := io.WriteString(e.in, line+"\n"); err != nil {
		return err
	}
	return e.await(word)
}

func (e *endOfTerminal) await(word string) error {
	for matched := 0; matched < len(word); {
		c, err := e.out.ReadByte()
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", word, err)
		}
		switch {
		case c == word[matched]:
			matched++
		case c == word[0]:
			matched = 1
		default:
			matched = 0
		}
	}
	return nil
}

// echoes types keys one after the other, each when the one before was shown.
func (e *endOfTerminal) echoes(n int) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	key := []byte{'x'}
	for i := range took {
		began := time.Now()
		if _, err := e.in.Write(key); err != nil {
			return nil, err
		}
		if _, err := e.out.ReadByte(); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return took, nil
}

// floods is how many bytes a second of a program's output come.
func (e *endOfTerminal) floods() (perSecond float64, err error) {
	if err := e.does(fmt.Sprintf("printf 'beg''in\\n'; head -c %d /dev/zero | tr '\\0' x", flood), "begin\n"); err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = io.CopyN(io.Discard, e.out, flood)
	return flood / time.Since(began).Seconds(), err
}

func (e *endOfTerminal) close() error {
	_ = e.command.Process.Kill() // it is asked for nothing more
	_ = e.command.Wait()
	return nil
}

func (b *bench) loopbackShell(ctx context.Context, d *daemon.Daemon, key, host string) (*endOfTerminal, error) {
	c := exec.CommandContext(ctx, filepath.Join(b.dir, "loopback"), "shell", host, "--reason", "a measurement")
	c.Env = append(os.Environ(), "LOOPBACK_URL="+d.URL, "LOOPBACK_API_KEY="+key, "LOOPBACK_CA_FILE="+filepath.Join(d.DataDir, "keys", "ca.crt"), "HOME="+b.dir)
	return begin(c)
}

// shellPairs is one round: a terminal by us and one by ssh, that take turns.
func (b *bench) shellPairs(ctx context.Context, d *daemon.Daemon, person string, s *sshServer, p50, p99, output *figure) (err error) {
	ours, err := b.loopbackShell(ctx, d, person, "host-000000")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close(), endShells(ctx, d)) }()
	theirs, err := begin(s.client(ctx))
	if err != nil {
		return err
	}
	defer theirs.close()
	both := []*endOfTerminal{ours, theirs}
	var floods [2][]float64
	for _, e := range both { // -opost: what is written is what comes
		if err := e.does("stty -echo -opost; PS1=; printf 'qui''et\\n'", "quiet\n"); err != nil {
			return err
		}
	}
	for range 3 {
		for i, e := range both {
			rate, err := e.floods()
			if err != nil {
				return err
			}
			floods[i] = append(floods[i], rate/1e6)
		}
	}
	output.add(median(floods[0]), median(floods[1]), 0)
	var took [2][]time.Duration
	for _, e := range both {
		if err := e.does("stty echo -icanon min 1; printf 'rea''dy\\n'; exec cat >/dev/null", "ready\n"); err != nil {
			return err
		}
	}
	for range pairs {
		for i, e := range both {
			got, err := e.echoes(keys)
			if err != nil {
				return err
			}
			took[i] = append(took[i], got[keys/10:]...) // a processor that has slept is not what is measured
		}
	}
	micro := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	p50.add(micro(median(took[0])), micro(median(took[1])), 0)
	p99.add(micro(share(took[0], 0.99)), micro(share(took[1], 0.99)), 0)
	return nil
}

// opened are sessions of many people on many hosts, each with its typist.
func opened(ctx context.Context, d *daemon.Daemon, people []string, n int, change func(i int, y *terminal.Typist)) ([]*terminal.Typist, func() error, error) {
	hosts, err := d.AllHosts(ctx)
	if err != nil {
		return nil, nil, err
	}
	clients := make([]*daemon.Client, len(people)) // and no connection for each session
	for i := range clients {
		clients[i] = d.As(people[i])
	}
	out := make([]*terminal.Typist, n)
	ctx, stop := context.WithCancel(ctx)
	err = each(n, 8, func(i int) error {
		s, err := clients[i/shell.MaxPerUser].Shells.OpenShell(ctx, connect.NewRequest(&pb.OpenShellRequest{Host: hosts[i%len(hosts)].Id, Reason: "a measurement"}))
		if err != nil {
			return err
		}
		y := terminal.New(terminal.Way{URL: d.URL, TLS: d.Dialer(wire.WebSocket, 0).TLS, Key: people[i/shell.MaxPerUser], Header: http.Header{}}, s.Msg.Id, "own")
		if change != nil {
			change(i, y)
		}
		if err := y.Connect(ctx); err != nil {
			return err
		}
		out[i] = y
		return nil
	})
	var pinging sync.WaitGroup
	pinging.Go(func() {
		for tick := time.NewTicker(8 * time.Second); ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
			for _, y := range out {
				if y != nil {
					y.Ping()
				}
			}
		}
	})
	return out, func() error {
		stop()
		pinging.Wait()
		return endShells(context.WithoutCancel(ctx), d)
	}, err
}

// crowdTypes is how long echoes take while many type at the pace of people.
func crowdTypes(ctx context.Context, d *daemon.Daemon, people []string) (took []time.Duration, err error) {
	came := make([]chan struct{}, typists)
	for i := range came {
		came[i] = make(chan struct{}, 1<<10)
	}
	var armed sync.Map
	all, end, err := opened(ctx, d, people, typists, func(i int, y *terminal.Typist) {
		y.Shown = func(b []byte) {
			if _, ok := armed.Load(i); !ok {
				if strings.Contains(string(b), "ready\r\n") {
					armed.Store(i, true)
					came[i] <- struct{}{}
				}
				return
			}
			for range b {
				came[i] <- struct{}{}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	var mu sync.Mutex
	err = each(typists, typists, func(i int) error {
		all[i].Type("stty -icanon min 1; printf 'rea''dy\\n'; exec cat >/dev/null\n")
		wait := func() error {
			select {
			case <-came[i]:
				return nil
			case <-time.After(20 * time.Second):
				return errors.New("nothing is shown")
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := wait(); err != nil {
			return err
		}
		var own []time.Duration
		for over := time.Now().Add(typeFor); time.Now().Before(over); {
			pause := time.NewTimer(time.Duration(rand.Int64N(int64(2 * typeEvery))))
			select {
			case <-pause.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			began := time.Now()
			all[i].Type("x")
			if err := wait(); err != nil {
				return err
			}
			own = append(own, time.Since(began))
		}
		mu.Lock()
		defer mu.Unlock()
		took = append(took, own...)
		return nil
	})
	return took, err
}

// idleMemory is what a session costs the control plane while nothing happens in it, in KiB.
func idleMemory(ctx context.Context, d *daemon.Daemon, people []string) (_ float64, err error) {
	if err := d.Kill(); err != nil { // what measuring has left in memory is nobody's session
		return 0, err
	}
	if err := d.Restart(ctx); err != nil {
		return 0, err
	}
	for online := 0; online < shellHosts; {
		hosts, err := d.AllHosts(ctx, "managed")
		if err != nil {
			return 0, err
		}
		online = len(hosts)
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
	before, err := daemon.Resident(d.PID())
	if err != nil {
		return 0, err
	}
	_, end, err := opened(ctx, d, people, idleShells, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := wait(ctx, 15*time.Second); err != nil {
		return 0, err
	}
	after, err := daemon.Resident(d.PID())
	return float64(after-before) / idleShells / 1024, err
}

// sshServer is a sshd with keys and settings of its own, and its client's.
type sshServer struct {
	command *exec.Cmd
	dir     string
	port    string
	quirks  []string
}

func (b *bench) startSSHD(ctx context.Context) (*sshServer, error) {
	program, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		return nil, fmt.Errorf("no sshd to measure against (run build/prepare.sh): %w", err)
	}
	s := &sshServer{}
	if s.dir, err = os.MkdirTemp(b.dir, "ssh-*"); err != nil {
		return nil, err
	}
	for _, key := range []string{"host", "user"} {
		if err := b.command(ctx, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, key)); err != nil {
			return nil, err
		}
	}
	address, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	_, s.port, _ = net.SplitHostPort(address)
	settings := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\n", s.port, s.dir, s.dir)
	if err := os.WriteFile(filepath.Join(s.dir, "config"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 { // where it separates privileges
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	if exec.CommandContext(ctx, "ssh", "-G", "-o", "ObscureKeystrokeTiming=no", "localhost").Run() == nil {
		s.quirks = []string{"-o", "ObscureKeystrokeTiming=no"}
	}
	s.command = exec.CommandContext(ctx, program, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return s, c.Close()
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
}

// client is a shell by it, without the files of who runs this.
func (s *sshServer) client(ctx context.Context) *exec.Cmd {
	return s.with(ctx, append(append([]string{"-tt"}, s.quirks...), "127.0.0.1", "exec /bin/sh")...)
}

// run is a command by it, without a terminal.
func (s *sshServer) run(ctx context.Context, command ...string) *exec.Cmd {
	return s.with(ctx, append([]string{"-T", "127.0.0.1"}, command...)...)
}

func (s *sshServer) with(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append([]string{"-F", "none", "-i", filepath.Join(s.dir, "user"), "-p", s.port, "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no",
		"-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"}, args...)...)
}

func (s *sshServer) close() error {
	_ = s.command.Process.Kill() // its children end with their connections
	_ = s.command.Wait()
	return nil
}
