package cli_test

import (
	"strings"
	"testing"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func TestCopiesAreShownAndDecidedOn(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(&pb.Host{Name: "web-1", State: "quarantined", Reason: "cloned: several machines hold its identity key", Copies: []*pb.HostCopy{
		{BootId: "aaaa-1", HostName: "web-1", Address: "10.0.0.5", Verdict: "undecided"},
		{BootId: "bbbb-2", HostName: "web-1-new", Address: "10.0.0.9", Verdict: "undecided"},
	}})
	shown := x.ok("host", "show", "web-1")
	for _, want := range []string{"copy aaaa-1", "web-1 10.0.0.5", "copy bbbb-2", "web-1-new 10.0.0.9", "undecided"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not shown in\n%s", want, shown)
		}
	}
	x.fails(2, "host show web-1", "--help", "host", "split", "web-1")
	x.fails(2, "host show web-1", "--help", "host", "drop", "web-1")
	x.ok("host", "split", "web-1", "--keep", "web-1", "--reason", "copied disk")
	if h, _ := p.host("web-1"); h.Copies[0].Verdict != "kept" || h.Copies[1].Verdict != "split" {
		t.Errorf("got %v, want the first kept and the other split", h.Copies)
	}
}

func TestAHostThatIsAheadIsSettled(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(&pb.Host{Name: "web-1", State: "degraded", Sections: []*pb.SectionStatus{{Name: "settings", Status: "applied", Revision: "1.57", Frozen: true}}})
	x.fails(2, "--winner is missing", "--help", "host", "settle", "web-1")
	if shown := x.ok("host", "settle", "web-1", "--winner", "host"); !strings.Contains(shown, "applied 1.57 (the host wins)") {
		t.Errorf("it is not shown who wins in\n%s", shown)
	}
	if shown := x.ok("host", "settle", "web-1", "--winner", "control-plane"); strings.Contains(shown, "frozen") {
		t.Errorf("still frozen:\n%s", shown)
	}
}
