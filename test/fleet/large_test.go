package fleet

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/wire"
)

// A section of many frames crosses real links, by both transports, to agents that know parts; one that does not know them
// keeps what it has.
func TestALargeSectionReachesAFleet(t *testing.T) {
	for _, transport := range []string{wire.WebSocket, wire.Poll} {
		t.Run(transport, func(t *testing.T) {
			c := newControl(t, &linktest.Fleet{})
			const n = 8
			f := running(t, c, n, func(i int, a *Agent) {
				a.Dialer = c.Dialer(transport)
				a.NoParts = i == 0
			})
			wait(t, f, time.Minute, allLinked(n))
			mesh := func(number uint64, peers int) section.Section {
				items := make([]section.Item, peers)
				for i := range items {
					items[i] = section.Item{Key: fmt.Sprintf("peer-%05d", i), Value: bytes.Repeat([]byte{byte(i)}, 1000)}
				}
				s, err := section.New("mesh", section.Revision{Epoch: 1, Number: number}, items)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range f.Agents {
					if err := c.Fleet.WantOf(a.HostID(), s); err != nil {
						t.Fatal(err)
					}
				}
				return s
			}
			small := mesh(1, 500)
			wait(t, f, time.Minute, func(Counts) bool { return f.InSync(small) == n })
			large := mesh(2, 5000)
			old := f.Agents[0]
			wait(t, f, time.Minute, func(Counts) bool {
				return f.InSync(large) == n-1 && c.Fleet.Status(old.HostID(), "mesh").State == section.Failed
			})
			if got := old.Holds("mesh"); got.Digest != small.Digest {
				t.Errorf("the older agent holds %d items, want the %d from before", len(got.Items), len(small.Items))
			}
		})
	}
}
