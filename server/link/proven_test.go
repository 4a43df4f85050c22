package link_test

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/loopbackd/loopback/server/link"
)

// What a link cost its address before anybody knew it is given back when it proves itself, and only then.
func TestAnAddressIsToldOfAsProvenOnlyByThoseWhoAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var proven atomic.Int64
		b := newBundle(t, func(o *link.Options) { o.Proven = func(netip.Addr) { proven.Add(1) } })
		m := b.enrolled()
		b.linked(m)
		if n := proven.Load(); n != 2 {
			t.Errorf("an enrolment and a hello were told of %d times, want 2", n)
		}
		stranger := newMachine()
		stranger.id = m.id
		l := b.open()
		l.say(stranger.hello(l))
		if refusalIn(l.heard()) == nil {
			t.Fatal("a stranger's key was taken")
		}
		if n := proven.Load(); n != 2 {
			t.Errorf("a stranger counted as proven")
		}
	})
}
