package link_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	serverlink "github.com/loopbackd/loopback/server/link"
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
