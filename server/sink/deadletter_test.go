package sink_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/sink/sinktest"
	noun "github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// poisonous is a mood that refuses these entries, whole or in parts; without any, all.
func poisonous(status int, poison ...string) sinktest.Mood {
	return func(events []string) sinktest.Answer {
		for _, e := range events {
			if len(poison) == 0 {
				return sinktest.Answer{Status: status}
			}
			for _, p := range poison {
				if strings.Contains(e, `"id":"`+p+`"`) || strings.Contains(e, `"of":"`+p+`"`) {
					return sinktest.Answer{Status: status}
				}
			}
		}
		return sinktest.Answer{}
	}
}

func (b *bench) letters(t *testing.T) []noun.DeadLetter {
	t.Helper()
	l, _, err := b.service.DeadLetters(admin, b.only(t).ID, tenant.Page{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// without is what was written but these.
func (b *bench) without(ids ...string) map[string]bool {
	out := map[string]bool{}
	for id := range b.wrote {
		if !slices.Contains(ids, id) {
			out[id] = true
		}
	}
	return out
}

func TestAnEntryThatAReceiverRefusesIsSetAsideAndTheOthersGoOn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		ids := b.write(t, 700, 10)
		bad := []string{ids[123], ids[555]}
		h.Behave(poisonous(400, bad...))
		began := time.Now()
		defer b.ship("one")()
		until(t, "the others are there", func() bool { return h.Has(b.without(bad...)) })
		until(t, "both are set aside", func() bool { return len(b.letters(t)) == 2 })
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("one bad entry held the others up for %v", took)
		}
		for i, l := range b.letters(t) {
			if l.Entry != bad[i] || l.Action != "hosts.label" || l.Tries < 5 || !strings.Contains(l.Reason, "400 Bad Request: not this") {
				t.Errorf("got %+v, want entry %s and what the receiver answered", l, bad[i])
			}
			if h.Body(l.Entry) != "" {
				t.Error("the receiver has it")
			}
		}
		if s := b.only(t); s.Health() != "ok" || b.aside != 2 {
			t.Errorf("the sink is %s, and %d were counted", s.Health(), b.aside)
		}
		for _, wrong := range h.Check(b.without(bad...)) {
			t.Error(wrong)
		}
	})
}

func TestDeadLettersAreSentAgainOrDismissed(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		ids := b.write(t, 20, 10)
		h.Behave(poisonous(422, ids[3], ids[4], ids[5]))
		stop := b.ship("one")
		until(t, "three are set aside", func() bool { return len(b.letters(t)) == 3 })
		sink := b.only(t).ID

		// Still refused: it is set aside again, with one try more.
		tries := b.letters(t)[0].Tries
		if n, err := b.service.ResendDeadLetters(admin, sink, []string{ids[3]}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		until(t, "it was tried", func() bool { l := b.letters(t)[0]; return l.Tries == tries+1 && !l.Resend })

		// One is given up, the others are taken after all.
		if n, err := b.service.DismissDeadLetters(admin, sink, []string{b.letters(t)[1].ID}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		h.Behave(poisonous(422, ids[4]))
		if n, err := b.service.ResendDeadLetters(admin, sink, nil); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		b.note(t)
		until(t, "they are there", func() bool { return len(b.letters(t)) == 0 && h.Has(b.without(ids[4])) })

		if _, err := b.service.ResendDeadLetters(admin, sink, []string{"dlt_x"}); fault.KindOf(err) != fault.NotFound {
			t.Errorf("got %v, want not found", err)
		}
		stop()
		entries, err := b.db.View().EntriesOf(t.Context(), "org_1", 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range entries {
			found = found || e.Action == noun.Update && string(e.After) == `{"dismiss":"`+ids[4]+`"}`
		}
		if !found {
			t.Error("that an entry was given up is not in the audit log")
		}
	})
}

// Who refuses everything has no bad entries: the sink is wrong, and says so instead of giving up the log entry by entry.
func TestAReceiverThatRefusesEverythingKeepsItsSinkFailing(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		h.Behave(poisonous(400))
		b.write(t, 50, 10)
		defer b.shipEvery("one", 5*time.Second)()
		time.Sleep(6 * time.Hour)
		s := b.only(t)
		if n := len(b.letters(t)); n != 10 || s.Health() != "failing" || !strings.Contains(s.LastError, "mend the receiver") {
			t.Fatalf("%d entries were set aside, the sink is %s: %s", n, s.Health(), s.LastError)
		}
		h.Behave(nil)
		if _, err := b.service.ResendDeadLetters(admin, s.ID, nil); err != nil {
			t.Fatal(err)
		}
		b.note(t)
		until(t, "everything is there", func() bool { return h.Has(b.wrote) && len(b.letters(t)) == 0 })
	})
}

// What is wrong with us, or with the address, is no entry's fault.
func TestConfigurationFailuresSetNothingAside(t *testing.T) {
	for _, status := range []int{301, 401, 403, 404, 405, 407, 408, 410, 425, 429, 500, 503} {
		bubble(t, func(t *testing.T, b *bench) {
			h := b.webhook(t, noun.JSON)
			h.Behave(poisonous(status))
			b.write(t, 5, 10)
			defer b.shipEvery("one", 20*time.Second)()
			time.Sleep(time.Hour)
			if n := len(b.letters(t)); n != 0 || b.only(t).Health() != "failing" {
				t.Errorf("%d: %d entries were set aside, the sink is %s", status, n, b.only(t).Health())
			}
			h.Behave(nil)
			b.await(t, h.Crate)
		})
	}
}

func TestAReplayThatDeliversEndsDeadLetters(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		ids := b.write(t, 20, 10)
		h.Behave(poisonous(400, ids[7]))
		defer b.ship("one")()
		until(t, "it is set aside", func() bool { return len(b.letters(t)) == 1 })
		h.Behave(nil)
		if _, err := b.service.Update(admin, b.only(t).ID, replayAll); err != nil {
			t.Fatal(err)
		}
		b.note(t)
		until(t, "it is there, and dead no longer", func() bool { return h.Has(b.wrote) && len(b.letters(t)) == 0 })
	})
}

// An event of which the receiver takes not even the smallest part is like any other that it refuses.
func TestAnEventThatIsTooLargeInAnyPartIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		h := b.webhook(t, noun.JSON)
		id := b.write(t, 3, 10)[1]
		h.Behave(poisonous(413, id))
		defer b.ship("one")()
		until(t, "it is set aside", func() bool { l := b.letters(t); return len(l) == 1 && l[0].Entry == id })
		until(t, "the others are there", func() bool { return h.Has(b.without(id)) })
	})
}

func TestACollectorThatRejectsOneRecordGetsTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		ids := b.write(t, 40, 10)
		c := b.collector(t, func(events []string) sinktest.Answer {
			return sinktest.Answer{Reject: int64(poisonous(1, ids[11])(events).Status)}
		})
		defer b.ship("one")()
		until(t, "one is set aside", func() bool { l := b.letters(t); return len(l) == 1 && l[0].Entry == ids[11] })
		until(t, "the others are there", func() bool { return c.Has(b.without(ids[11])) })
	})
}
