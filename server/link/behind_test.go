package link_test

import (
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
)

// A host comes from another replica with a value that the feed has not brought here yet: it is this replica that is
// behind. Only where the value does not come is the host ahead.
func TestAReplicaThatIsBehindTakesNoHostForAhead(t *testing.T) {
	for _, comes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBundle(t, func(o *link.Options) { o.Shared = true })
			b.fleet.SetEpoch(link.Epoch{Number: 1})
			m := b.enrolled()
			value := func(number uint64, value string) section.Section {
				s, err := section.New("settings", section.Revision{Epoch: 1, Number: number}, []section.Item{{Key: "log", Value: []byte(value)}})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			if err := b.fleet.WantOf(m.id, value(7, "old")); err != nil {
				t.Fatal(err)
			}
			held, err := link.Compile(value(9, "new"))
			if err != nil {
				t.Fatal(err)
			}
			m.held = []*pb.SectionHeld{heldOf(held, "applied", "")}
			l, _ := b.linked(m)
			if got, status := l.heard(), observed(b, m, "settings"); len(got) != 0 || status.Frozen {
				t.Fatalf("before the feed brought it, got frames %v and status %+v, wanted neither", got, status)
			}
			if comes {
				if err := b.fleet.WantOf(m.id, value(9, "new")); err != nil {
					t.Fatal(err)
				}
				b.hub.Changed([]string{m.id})
			}
			stop := keepAlive(l, 5*time.Second)
			time.Sleep(20 * time.Second)
			stop()
			if status := observed(b, m, "settings"); status.Frozen == comes {
				t.Errorf("the value came: %t; got %+v", comes, status)
			}
		})
	}
}
