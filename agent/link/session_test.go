package link_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/loopbackd/loopback/agent/link"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	serverlink "github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

func TestASectionInPartsReachesTheHostWhole(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.run(t)
		synctest.Wait()
		var items []section.Item
		for i := range 3000 {
			items = append(items, section.Item{Key: fmt.Sprintf("peer-%05d", i), Value: make([]byte, 1000)})
		}
		want, err := section.New("mesh", section.Revision{Epoch: 1, Number: 5}, items)
		if err != nil {
			t.Fatal(err)
		}
		compiled, err := serverlink.Compile(want)
		if err != nil {
			t.Fatal(err)
		}
		send := func(frames ...[]byte) {
			for _, frame := range frames {
				f := &pb.ServerFrame{}
				if err := proto.Unmarshal(frame, f); err != nil {
					t.Fatal(err)
				}
				b.Send(f)
			}
			synctest.Wait()
		}
		send(compiled.Whole[0], compiled.Whole[2]) // one is missing
		send(compiled.Whole...)
		b.machine.do(func() {
			if got := b.machine.wholes; len(got) != 1 || got[0].Digest != want.Digest || len(got[0].Items) != len(items) {
				t.Errorf("the host got %d sections, want the one", len(got))
			}
		})
	})
}

// twoEndpoints has a client know an endpoint before the one that works. up says whether the attempt at it with this
// number, from 0, succeeds.
func twoEndpoints(b *bench, up func(attempt int64) bool) (first, second string, attempts *atomic.Int64) {
	first, second = "https://first.test", b.config.Endpoints[0]
	b.config.Endpoints = []string{first, second}
	dial := b.pipes.Dial(b.config)
	attempts = new(atomic.Int64)
	b.dial = func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (link.Conn, error) {
		if endpoint == first && !up(attempts.Add(1)-1) {
			return nil, wire.ErrLost
		}
		return dial(ctx, second, anchors, seen)
	}
	return first, second, attempts
}

func TestALinkGoesBackToAnEarlierEndpointOnceItCanBeReached(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		var open atomic.Bool
		first, second, attempts := twoEndpoints(b, func(int64) bool { return open.Load() })
		b.run(t)
		time.Sleep(3 * time.Hour)
		if s := b.client.Status(); s.State != link.Linked || s.Endpoint != second {
			t.Fatalf("got %s at %s, want linked at the second", s.State, s.Endpoint)
		}
		if n := attempts.Load(); n < 8 || n > 16 {
			t.Errorf("the first endpoint was tried %d times in three hours", n)
		}
		open.Store(true)
		time.Sleep(31 * time.Minute)
		if s := b.client.Status(); s.State != link.Linked || s.Endpoint != first {
			t.Fatalf("after it opened: got %s at %s, want linked at the first", s.State, s.Endpoint)
		}
		before := attempts.Load()
		time.Sleep(3 * time.Hour)
		if more := attempts.Load() - before; more != 0 {
			t.Errorf("a link to the first endpoint tried it %d times more", more)
		}
	})
}

// An endpoint that answers and then gives no link must not have the link cut every minute.
func TestAnEndpointThatOnlySeemsToBeBackIsReturnedToMoreAndMoreSeldom(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		// The first attempt of all fails, then one succeeds (the try) and one fails (the link), and so on.
		_, second, attempts := twoEndpoints(b, func(n int64) bool { return n%2 == 1 })
		b.run(t)
		time.Sleep(6 * time.Hour)
		if s := b.client.Status(); s.State != link.Linked || s.Endpoint != second {
			t.Errorf("got %s at %s, want linked at the second", s.State, s.Endpoint)
		}
		if returns := attempts.Load() / 2; returns < 5 || returns > 20 {
			t.Errorf("the link was given up %d times in six hours for an endpoint that is not there", returns)
		}
	})
}
