package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/flynn/noise"
	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// pair shakes hands in memory and returns the agent's sending and the server's receiving direction.
func pair(t testing.TB, every uint64) (out, in *sealing) {
	t.Helper()
	d := newDeployment(t, 1)
	agent, first, err := initiate()
	if err != nil {
		t.Fatal(err)
	}
	second, server, err := respond(d.keys, first, every)
	if err != nil {
		t.Fatal(err)
	}
	s, _, _, err := agent.finish(second, []trust.AnchorHash{d.hash()}, 0, every)
	if err != nil {
		t.Fatal(err)
	}
	return &s.out, &server.in
}

// carry seals an envelope, opens its messages and puts it together again.
func carry(out, in *sealing, parts *assembly, envelope []byte, limit int) (got []byte, messages int, err error) {
	complete := false
	err = out.sealEnvelope(envelope, limit, func(m []byte) error {
		messages++
		if len(m) > maxMessage {
			return errors.New("a message is too long for Noise")
		}
		if complete {
			return errors.New("there is more after the envelope was complete")
		}
		plain, err := in.open(bytes.Clone(m))
		if err != nil {
			return err
		}
		var envelope []byte
		if envelope, complete, err = parts.add(plain); complete {
			got = bytes.Clone(envelope)
		}
		return err
	})
	if err == nil && !complete {
		err = errors.New("the envelope did not become complete")
	}
	return got, messages, err
}

func TestFragmentsMakeTheSameEnvelopeAtEveryBoundary(t *testing.T) {
	noise := make([]byte, MaxEnvelope)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	out, in := pair(t, rekeyInterval)
	parts := assembly{budget: &budget{limit: MaxEnvelope}}
	check := func(t interface{ Fatalf(string, ...any) }, size, limit int) {
		got, messages, err := carry(out, in, &parts, noise[:size], limit)
		if err != nil {
			t.Fatalf("%d bytes in fragments of %d: %v", size, limit, err)
		}
		if !bytes.Equal(got, noise[:size]) {
			t.Fatalf("%d bytes in fragments of %d came out as %d others", size, limit, len(got))
		}
		if want := max(1, (size+limit-1)/limit); messages != want {
			t.Fatalf("%d bytes in fragments of %d took %d messages, want %d", size, limit, messages, want)
		}
		if used := parts.budget.used.Load(); used != 0 || parts.parts != nil {
			t.Fatalf("%d bytes in fragments of %d left %d bytes behind", size, limit, used)
		}
	}
	for _, limit := range []int{uplinkFragment, maxFragment} {
		for n := 0; n <= MaxEnvelope/limit; n++ {
			for d := -2; d <= 2; d++ {
				if size := n*limit + d; size >= 0 && size <= MaxEnvelope && (limit == maxFragment || n < 4 || n%97 == 0) {
					check(t, size, limit)
				}
			}
		}
		check(t, MaxEnvelope, limit)
		check(t, MaxEnvelope-1, limit)
	}
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(1, maxFragment).Draw(r, "limit")
		check(r, rapid.IntRange(0, min(MaxEnvelope, 200*limit)).Draw(r, "size"), limit)
	})
	if err := out.sealEnvelope(make([]byte, MaxEnvelope+1), maxFragment, nil); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("an envelope of a byte too much: got %v, want %v", err, ErrTooLarge)
	}
}

func TestFragmentsThatAreNoEnvelopeAreRefused(t *testing.T) {
	big := make([]byte, maxFragment)
	more, last := append([]byte{flagMore}, big...), append([]byte{flagLast}, big...)
	repeat := func(b []byte, n int, tail ...[]byte) (all [][]byte) {
		for range n {
			all = append(all, b)
		}
		return append(all, tail...)
	}
	cases := map[string]struct {
		plain [][]byte
		want  *fault.Error
	}{
		"an unknown flag":            {[][]byte{{0x04, 1}}, ErrMalformed},
		"two flags":                  {[][]byte{{flagLast | flagClose}}, ErrMalformed},
		"a fragment of nothing":      {[][]byte{{flagMore}}, ErrMalformed},
		"too much, unfinished":       {repeat(more, 17), ErrTooLarge},
		"too much, finished":         {repeat(more, 16, last), ErrTooLarge},
		"a last word of nothing":     {[][]byte{{flagClose}}, ErrMalformed},
		"a last word without a code": {[][]byte{append([]byte{flagClose}, "internal\x00\x000\x00x"...)}, ErrMalformed},
		"a last word of any kind":    {[][]byte{append([]byte{flagClose}, "nice\x00code\x000\x00x"...)}, ErrMalformed},
		"a code that is no code":     {[][]byte{append([]byte{flagClose}, "internal\x00Co de\x000\x00x"...)}, ErrMalformed},
		"a time that is none":        {[][]byte{append([]byte{flagClose}, "internal\x00code\x00-1\x00x"...)}, ErrMalformed},
		"a long story":               {[][]byte{append([]byte{flagClose}, "internal\x00code\x000\x00"+string(big)...)}, ErrMalformed},
	}
	for name, test := range cases {
		parts := assembly{budget: &budget{limit: 4 * MaxEnvelope}}
		var err error
		for _, plain := range test.plain {
			if _, _, err = parts.add(plain); err != nil {
				break
			}
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		parts.reset()
		if used := parts.budget.used.Load(); used != 0 {
			t.Errorf("%s: %d bytes of the budget are not given back", name, used)
		}
	}
}

func TestUnfinishedEnvelopesHaveABudgetTogether(t *testing.T) {
	shared := &budget{limit: 3000}
	one, other := assembly{budget: shared}, assembly{budget: shared}
	fragment := make([]byte, 1+1400)
	for _, a := range []*assembly{&one, &other} {
		if _, _, err := a.add(fragment); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := one.add(fragment); !errors.Is(err, ErrTooBusy) {
		t.Fatalf("beyond the budget: got %v, want %v", err, ErrTooBusy)
	}
	one.reset()
	if _, _, err := other.add(fragment); err != nil {
		t.Fatalf("after the other gave its bytes back: %v", err)
	}
}

func TestKeysMoveOnTogether(t *testing.T) {
	out, in := pair(t, 3)
	var parts assembly
	before := out.state.UnsafeKey()
	for i := range 20 {
		if got, _, err := carry(out, in, &parts, []byte{byte(i)}, 100); err != nil || !bytes.Equal(got, []byte{byte(i)}) {
			t.Fatalf("message %d: got %v, %v", i, got, err)
		}
		moved := out.state.UnsafeKey() != before
		if want := i != 0 && i%3 == 0; moved != want {
			t.Fatalf("after message %d the key moved: %v, want %v", i, moved, want)
		}
		before = out.state.UnsafeKey()
	}
}

func TestAnEndThatDoesNotMoveItsKeyOnIsNotUnderstood(t *testing.T) {
	out, in := pair(t, 3)
	in.every = rekeyInterval
	var parts assembly
	for i := range 4 {
		_, _, err := carry(out, in, &parts, []byte("x"), 100)
		if wrong := err != nil; wrong != (i == 3) {
			t.Fatalf("message %d: got %v", i, err)
		}
	}
}

func TestUsedUpNoncesSealNothing(t *testing.T) {
	out, _ := pair(t, rekeyInterval)
	out.state.SetNonce(noise.MaxNonce + 1)
	err := out.sealEnvelope([]byte("x"), 100, func([]byte) error { t.Fatal("sealed"); return nil })
	wantCode(t, "seal", err, "link_exhausted")
}

func TestReasonsCross(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reason := fault.New(fault.Denied, rapid.StringMatching(`[a-z0-9_]{1,64}`).Draw(t, "code"), "%s", rapid.String().Draw(t, "message"))
		got := decodeReason(encodeReason(reason))
		if got.Code != reason.Code || got.Kind != reason.Kind {
			t.Fatalf("got %s %s, want %s %s", got.Kind, got.Code, reason.Kind, reason.Code)
		}
	})
	if got := decodeReason(encodeReason(errors.New("secret cause"))); got.Code != "internal" || got.Message != "internal error" {
		t.Fatalf("an error of ours crossed as %+v", got)
	}
}
