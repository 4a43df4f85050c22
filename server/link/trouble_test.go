package link_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
)

// TestTroublesReachWhoObserves: what was met before the link, and what stands in the way now, until it does not.
func TestTroublesReachWhoObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, _ := b.linked(m)
		l.heard()
		met := time.Now().Add(-time.Minute)
		for _, code := range []string{"dns_failed", "proxy_auth_required", "dns_failed", "not a code", "", "<script>"} {
			l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{Code: code, Message: "why\nnot", At: timestamppb.New(met), Attempts: 3}}})
		}
		health := func(codes ...string) {
			r := &pb.HealthReport{}
			for _, c := range codes {
				r.Troubles = append(r.Troubles, &pb.LinkTrouble{Code: c, Message: "of " + c})
			}
			l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Health{Health: r}})
			synctest.Wait()
		}
		ongoing := func() (out []string) {
			for _, t := range b.fleet.Troubles(m.id) {
				if t.Ongoing {
					out = append(out, t.Code)
				}
			}
			slices.Sort(out)
			return out
		}
		health("disk_full", "clock_skew")
		all := b.fleet.Troubles(m.id)
		if len(all) != 4 || !slices.Equal(ongoing(), []string{"clock_skew", "disk_full"}) {
			t.Fatalf("got %+v, want two that were met and two that are there", all)
		}
		if i := slices.IndexFunc(all, func(t host.Trouble) bool { return t.Code == "dns_failed" }); i < 0 ||
			all[i].Attempts != 3 || all[i].Message != "why not" || !all[i].At.Equal(met) {
			t.Errorf("got %+v, want dns_failed as it was met", all)
		}
		before := b.fleet.Observations.Load()
		health("disk_full", "clock_skew")
		if n := b.fleet.Observations.Load() - before; n != 0 {
			t.Errorf("the same troubles cost %d observations", n)
		}
		health("clock_skew")
		if got := ongoing(); !slices.Equal(got, []string{"clock_skew"}) {
			t.Errorf("after the disk has room again: %v", got)
		}
		health()
		if got := ongoing(); len(got) != 0 {
			t.Errorf("after all was mended: %v", got)
		}
		for i := range 100 {
			l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{Code: fmt.Sprint("code_", i)}}})
		}
		synctest.Wait()
		if n := len(b.fleet.Troubles(m.id)); n != host.MaxTroubles {
			t.Errorf("%d troubles are kept, want %d", n, host.MaxTroubles)
		}
	})
}

// After our restart, each of a fleet has met that nobody answered: that is no trouble of theirs, and costs nothing.
func TestWhatWeMakeOurselvesIsNoTroubleOfAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, _ := b.linked(m)
		synctest.Wait()
		say := func(codes ...string) {
			for _, code := range codes {
				l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{Code: code, At: timestamppb.Now()}}})
			}
			synctest.Wait()
		}
		before := b.fleet.Observations.Load()
		say("connect_refused", "link_lost", "too_busy", "server_stopping")
		if n := b.fleet.Observations.Load() - before; n != 0 {
			t.Errorf("our own restart cost %d observations", n)
		}
		stop := keepAlive(l, 5*time.Second)
		time.Sleep(10 * time.Minute)
		stop()
		say("connect_refused", "too_busy")
		if got := b.fleet.Troubles(m.id); len(got) != 1 || got[0].Code != "connect_refused" {
			t.Errorf("a firewall's refusal, long after our start: %+v", got)
		}
	})
}
