package replicas

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/terminal"
	"github.com/loopbackd/loopback/wire"
)

func must[T any](r *connect.Response[T], err error) *T {
	if err != nil {
		panic(err)
	}
	return r.Msg
}

// sheller is the key of somebody who may have shells for an hour, and see and end those of others.
func (c *cluster) sheller() string {
	c.t.Helper()
	d, ctx := c.replicas[0], c.within(20*time.Second)
	account := must(d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "ada"})))
	role := must(d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "ada", Permissions: []string{"shell_sessions.open", "shell_sessions.forget", "shell_sessions.*", "hosts.read", "workspaces.read",
		"projects.read", "organisations.read"}})))
	must(d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Id, Role: role.Id, NotAfter: timestamppb.New(time.Now().Add(time.Hour))})))
	return must(d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "ada", ServiceAccount: account.Id, Permissions: []string{"*", "shell_sessions.open", "shell_sessions.forget"}}))).Secret
}

// shellHost is a host that shells can be opened on, linked to one replica.
func (c *cluster) shellHost(at *daemon.Daemon) *terminal.Machine {
	c.t.Helper()
	m := &terminal.Machine{Dir: c.t.TempDir()}
	f := fleet.Run(c.t.Context(), 1, 1, func(i int) *fleet.Agent {
		return &fleet.Agent{Dialer: at.Dialer(wire.WebSocket, i), Token: c.secret, Patience: 200 * time.Millisecond, Shell: m.Begin}
	})
	c.t.Cleanup(f.Stop)
	c.t.Cleanup(m.Close)
	c.await(f, time.Minute, func(now fleet.Counts) bool { return now.Linked == 1 })
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, 1) })
	}
	return m
}

func (c *cluster) open(at *daemon.Daemon, key string) *pb.ShellSession {
	c.t.Helper()
	hosts, err := at.AllHosts(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := at.As(key).Shells.OpenShell(c.within(20*time.Second), connect.NewRequest(&pb.OpenShellRequest{Host: hosts[0].Id, Reason: "replication is stuck"}))
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Msg
}

// typist takes part by one replica, again and again.
func (c *cluster) typist(at *daemon.Daemon, key, session, mode string) (y *terminal.Typist, done <-chan error) {
	c.t.Helper()
	y = terminal.New(terminal.Way{URL: at.URL, TLS: at.Dialer(wire.WebSocket, 0).TLS, Key: key}, session, mode)
	ctx, stop := context.WithCancel(c.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- y.Keep(ctx) }()
	c.t.Cleanup(stop)
	return y, ended
}

func (c *cluster) seen(y *terminal.Typist, what string) {
	c.t.Helper()
	if err := y.Await(c.within(40*time.Second), what); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) sessionEnds(at *daemon.Daemon, key, id string) (s *pb.ShellSession) {
	c.t.Helper()
	c.until(30*time.Second, func() error {
		r, err := at.As(key).Shells.GetShellSession(c.t.Context(), connect.NewRequest(&pb.GetShellSessionRequest{Session: id}))
		if err != nil {
			return err
		}
		if s = r.Msg; s.State != "ended" {
			return fmt.Errorf("session %s is %s", id, s.State)
		}
		return nil
	})
	return s
}

// A shell is asked for at one replica, its host is linked to a second, who types is connected to a third. Each of them dies by SIGKILL in
// the middle of it: the session goes on at the very byte, and both recordings agree.
func TestAShellThroughThreeReplicas(t *testing.T) {
	c := start(t, 3, "")
	key := c.sheller()
	machine := c.shellHost(c.replicas[1])

	t.Run("opened, typed into, watched, ended, replayed, forgotten", func(t *testing.T) {
		s := c.open(c.replicas[0], key)
		own, ended := c.typist(c.replicas[2], key, s.Id, "own")
		c.seen(own, "is recorded")
		watcher, _ := c.typist(c.replicas[1], c.replicas[0].Key, s.Id, "watch")
		own.Type("echo a$((40+2))b\n")
		c.seen(own, "a42b")
		c.seen(watcher, "a42b")
		// A guest comes in at a replica that does not have it, and is sent away from a third.
		link, err := c.replicas[1].Guests.InviteGuest(c.within(20*time.Second), connect.NewRequest(&pb.InviteGuestRequest{Session: s.Id, Name: "Vendor, Jane"}))
		if err != nil {
			t.Fatal(err)
		}
		guest, gone := c.typist(c.replicas[2], link.Msg.Secret, s.Id, terminal.Guest)
		c.seen(guest, "a42b")
		if _, err := c.replicas[1].Guests.RevokeGuest(c.within(20*time.Second), connect.NewRequest(&pb.RevokeGuestRequest{Guest: link.Msg.Guest.Id})); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := <-gone; fault.Of(err).Code != "guest_revoked" {
			t.Errorf("the guest was told %v", err)
		}
		t.Logf("the guest was gone %v after their link was taken back", time.Since(began).Round(time.Millisecond))
		if _, err := c.replicas[2].As(key).Shells.KillShellSession(c.within(20*time.Second), connect.NewRequest(&pb.KillShellSessionRequest{Session: s.Id, Comment: "enough"})); err != nil {
			t.Fatal(err)
		}
		<-ended
		if over, _ := own.Over(); over == nil || over.Code != "session_ended" || !strings.Contains(over.Message, "enough") {
			t.Errorf("who typed was told %v", over)
		}
		if s := c.sessionEnds(c.replicas[1], key, s.Id); s.Verdict != "agreed" {
			t.Errorf("the recordings of %s: %s (%s)", s.Id, s.Verdict, s.EndReason)
		}
		in, err := c.replicas[2].As(key).Shells.ReplayShellSession(c.within(20*time.Second), connect.NewRequest(&pb.ReplayShellSessionRequest{Session: s.Id}))
		if err != nil {
			t.Fatal(err)
		}
		var cast strings.Builder
		for in.Receive() {
			cast.Write(in.Msg().Cast)
		}
		if err := errors.Join(in.Err(), in.Close()); err != nil || !strings.Contains(cast.String(), "a42b") {
			t.Errorf("replayed at a third replica: %v, %s", err, cast.String())
		}
		// The replica that recorded it deletes it, and the one that its host is linked to has the host drop its copy.
		if _, err := c.replicas[2].As(key).Shells.ForgetShellSession(c.within(20*time.Second), connect.NewRequest(&pb.ForgetShellSessionRequest{Session: s.Id, Reason: "leak"})); err != nil {
			t.Fatal(err)
		}
		c.until(30*time.Second, func() error {
			now := must(c.replicas[1].As(key).Shells.GetShellSession(c.within(20*time.Second), connect.NewRequest(&pb.GetShellSessionRequest{Session: s.Id})))
			if n, err := recording.Held(machine.Recording(s.Id)); err != nil || n > 0 || now.Deletion.GetHostAt() == nil {
				return fmt.Errorf("the host has %d bytes of it, %v; %v", n, err, now.Deletion)
			}
			return nil
		})
	})

	t.Run("the replica that records it dies", func(t *testing.T) {
		s := c.open(c.replicas[0], key)
		own, _ := c.typist(c.replicas[2], key, s.Id, "own")
		watcher, _ := c.typist(c.replicas[1], key, s.Id, "watch")
		c.seen(own, "is recorded")
		link, err := c.replicas[1].Guests.InviteGuest(c.within(20*time.Second), connect.NewRequest(&pb.InviteGuestRequest{Session: s.Id, Name: "Vendor, Jane"}))
		if err != nil {
			t.Fatal(err)
		}
		guest, _ := c.typist(c.replicas[2], link.Msg.Secret, s.Id, terminal.Guest)
		c.seen(guest, "is recorded")
		own.Type("x=41; echo before-$((x+1)); i=0; while [ $i -lt 2000 ]; do echo line-$i; i=$((i+1)); done\n")
		c.seen(own, "line-1999")
		if err := c.replicas[0].Kill(); err != nil {
			t.Fatal(err)
		}
		own.Type("echo after-$((x+1))\n")
		began := time.Now()
		c.seen(own, "after-42")
		c.seen(watcher, "after-42")
		c.seen(guest, "after-42")
		t.Logf("it went on %v after the kill", time.Since(began).Round(time.Millisecond))
		own.Type("exit 3\n")
		if s := c.sessionEnds(c.replicas[2], key, s.Id); s.Verdict != "agreed" || s.ExitStatus != 3 {
			t.Errorf("the recordings of %s: %s; status %d (%s)", s.Id, s.Verdict, s.ExitStatus, s.EndReason)
		}
		for _, once := range []string{"before-42", "after-42", "line-1000\r", "line-1999"} {
			if n := strings.Count(own.Seen(), once); n != 1 {
				t.Errorf("%q was shown %d times", once, n)
			}
		}
		// The one that died comes back, and knows that it is over.
		if err := c.replicas[0].Restart(c.within(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if s := c.sessionEnds(c.replicas[0], key, s.Id); s.Verdict != "agreed" {
			t.Errorf("back again, it says %s", s.Verdict)
		}
	})
}
