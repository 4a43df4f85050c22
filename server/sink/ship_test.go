package sink_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/sink/sinktest"
	noun "github.com/loopbackd/loopback/sink"
)

func TestAWebhookGetsEverythingOnceInEveryFormat(t *testing.T) {
	for _, format := range noun.Formats {
		t.Run(string(format), func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.write(t, 700, 10)
				h := b.webhook(t, format)
				defer b.ship("one")()
				b.await(t, h.Crate)
				b.write(t, 3, 10)
				b.await(t, h.Crate)
				once(t, h.Crate)
			})
		})
	}
}

func once(t *testing.T, c *sinktest.Crate) {
	t.Helper()
	for id, n := range c.Times() {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

// Whatever the receiver does, and however often whoever ships dies, nothing is missing in the end.
func TestNothingIsMissedWhateverTheReceiverDoes(t *testing.T) {
	fails, loses, slow, takes := sinktest.Answer{Status: 500}, sinktest.Answer{Lose: true}, sinktest.Answer{Wait: 7 * time.Second}, sinktest.Answer{}
	for name, moods := range map[string][]sinktest.Answer{
		"answers 500 most of the time":     {fails, fails, takes},
		"takes it and the answer is lost":  {loses, takes},
		"is slow":                          {slow},
		"does not answer for a minute":     {{Wait: time.Minute}, takes},
		"does all of it, and shippers die": {loses, fails, slow, takes, takes, takes},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				h := b.webhook(t, noun.JSON)
				r := rand.New(rand.NewPCG(2, uint64(len(name))))
				tries, luck := 0, rand.New(rand.NewPCG(3, uint64(len(name))))
				h.Behave(func([]string) sinktest.Answer { tries++; return moods[(tries+luck.IntN(2))%len(moods)] })
				for range 8 {
					b.write(t, 1+r.IntN(400), 10)
					stop := b.ship("one")
					time.Sleep(time.Duration(r.IntN(20_000)) * time.Millisecond)
					stop() // in the middle of whatever it does
				}
				defer b.ship("one")()
				b.await(t, h.Crate)
				if name == "takes it and the answer is lost" && h.Lost() == 0 {
					t.Error("no answer was lost")
				}
			})
		})
	}
}

func TestAReceiverThatWasDeadForADayGetsItAllInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		h.Behave(func([]string) sinktest.Answer { return sinktest.Answer{Status: 500} })
		defer b.shipEvery("one", 20*time.Second)()
		for range 24 {
			b.write(t, 10, 10)
			time.Sleep(time.Hour)
		}
		if s := b.only(t); s.Health() != "failing" || s.Failures < 1000 || !strings.Contains(s.LastError, "the receiver answered 500") {
			t.Errorf("after a day: %s after %d failures, %q", s.Health(), s.Failures, s.LastError)
		}
		if h.Len() > 0 || b.aside > 0 {
			t.Fatalf("it has %d entries, and %d were set aside", h.Len(), b.aside)
		}
		h.Behave(nil)
		revived := time.Now()
		b.await(t, h.Crate)
		if took := time.Since(revived); took > 2*time.Minute {
			t.Errorf("it took %v until it had everything", took)
		}
		once(t, h.Crate)
	})
}

func TestAReceiverThatIsNotThereIsTriedUntilItIs(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		cert, ca := sinktest.Certificate()
		h := &sinktest.Webhook{Crate: sinktest.NewCrate(), Complain: t.Errorf}
		_, secret := b.create(t, sink.New{Name: "siem", Organisation: "acme", Kind: noun.Webhook, Target: "https://example.com/in", CA: ca, Since: time.Unix(1, 0)})
		if err := h.Trust(secret); err != nil {
			t.Fatal(err)
		}
		b.write(t, 10, 10)
		defer b.ship("one")()
		until(t, "it fails", func() bool { return b.only(t).Failures > 3 })
		defer sinktest.Serve(b.net.Listen("example.com:443"), cert, h)()
		b.await(t, h.Crate)
	})
}

func TestAnEventOfTenMebibytesPasses(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.write(t, 2, 10)
		b.write(t, 1, 10<<20)
		b.write(t, 2, 10)
		h := b.webhook(t, noun.JSON)
		defer b.ship("one")()
		b.await(t, h.Crate)
	})
}

func TestAReceiverThatTakesOnlySmallEventsGetsSmallerParts(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		h.Most = 20_000
		b.write(t, 1, 200_000)
		defer b.ship("one")()
		b.await(t, h.Crate)
	})
}

func TestOnlyOneReplicaShipsAndAnotherTakesOver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		stop := b.ship("one")
		defer b.ship("two")()
		for range 10 {
			b.write(t, 100, 10)
			time.Sleep(10 * time.Second)
		}
		b.await(t, h.Crate)
		stop()
		b.write(t, 100, 10)
		left := time.Now()
		b.await(t, h.Crate)
		if took := time.Since(left); took > 2*time.Second {
			t.Errorf("the other took over after %v", took)
		}
		once(t, h.Crate)
	})
}

// A sink with nothing to send costs a commit now and then, for its lease, not one for each look.
func TestAnIdleSinkCostsFewCommits(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		defer b.ship("one")()
		b.await(t, h.Crate)
		time.Sleep(time.Second)
		first := b.only(t).LeaseUntil
		renewed := 0
		for range 600 {
			time.Sleep(time.Second)
			if now := b.only(t).LeaseUntil; now != first {
				first = now
				renewed++
			}
		}
		if renewed < 5 || renewed > 60 {
			t.Errorf("its lease was renewed %d times within ten minutes, want about 24", renewed)
		}
	})
}

func TestASinkIsPausedResumedAndReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		defer b.ship("one")()
		b.write(t, 10, 10)
		b.await(t, h.Crate)
		s := b.only(t)
		yes, no := true, false
		if _, err := b.service.Update(admin, s.ID, sink.Update{Paused: &yes}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		before := h.Len()
		b.write(t, 10, 10)
		time.Sleep(time.Hour)
		if n := h.Len() - before; n != 0 {
			t.Errorf("it got %d entries while it was paused", n)
		}
		if _, err := b.service.Update(admin, s.ID, sink.Update{Paused: &no}); err != nil {
			t.Fatal(err)
		}
		b.note(t)
		b.await(t, h.Crate)
		h.Empty()
		if _, err := b.service.Update(admin, s.ID, replayAll); err != nil {
			t.Fatal(err)
		}
		b.note(t)
		b.await(t, h.Crate)
	})
}
