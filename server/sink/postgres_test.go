package sink_test

import (
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/sink/sinktest"
	"github.com/loopbackd/loopback/server/storage/storagetest"
	noun "github.com/loopbackd/loopback/sink"
)

// pace is that of shippers in real time.
const pace = 5 * time.Millisecond

// The same over PostgreSQL, whose sockets no bubble holds: leases, cursors, a receiver that fails, an entry that it refuses.
func TestSinksOnPostgres(t *testing.T) {
	b := newBench(t, storagetest.StartPostgres(t, "fsync=off").NewDatabase(t))
	h := b.webhook(t, noun.JSON)
	ids := b.write(t, 600, 10)
	tries := 0
	h.Behave(func(events []string) sinktest.Answer {
		if tries++; tries%3 == 0 {
			return []sinktest.Answer{{Lose: true}, {Status: 500}}[tries%2]
		}
		return poisonous(400, ids[99])(events)
	})
	stop := b.shipEvery("one", pace)
	until(t, "one is set aside", func() bool { return len(b.letters(t)) == 1 })
	until(t, "the others are there", func() bool { return h.Has(b.without(ids[99])) })
	h.Behave(nil)
	stop()
	defer b.shipEvery("two", pace)()
	if n, err := b.service.ResendDeadLetters(admin, b.only(t).ID, nil); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	b.note(t)
	until(t, "it has everything", func() bool { return h.Has(b.wrote) && len(b.letters(t)) == 0 })
	if wrong := b.only(t); wrong.LeaseOwner != "two" {
		t.Errorf("the lease is held by %q", wrong.LeaseOwner)
	}
}
