package bus

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// seal is a signer that takes each other's word: a message and its name reversed.
type seal string

func (s seal) Sign(m []byte) (string, []byte) { return string(s), append([]byte(s), m...) }
func (s seal) Verify(replica string, m, signature []byte) bool {
	return bytes.Equal(signature, append([]byte(replica), m...))
}

// On a bus that others use, what no replica signed reaches nobody, and neither does what is old.
func TestSomebodyElseOnTheBusIsPassedOver(t *testing.T) {
	outside, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	outside.Start()
	t.Cleanup(func() { outside.Shutdown(); outside.WaitForShutdown() })
	if !outside.ReadyForConnections(openTimeout) {
		t.Fatal("the bus outside is not ready")
	}
	open := func(s Signer, clock func() time.Time) *Bus {
		b, err := Open(Options{Outside: &Outside{URL: outside.ClientURL()}, Signer: s, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := b.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		return b
	}
	us, other := open(seal("a"), nil), open(seal("b"), nil)
	late := open(seal("c"), func() time.Time { return time.Now().Add(-time.Hour) })
	heard := make(chan Presence, 10)
	if _, err := us.OnPresence(func(batch []Presence) { heard <- batch[0] }); err != nil {
		t.Fatal(err)
	}
	if err := us.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	stranger, err := nats.Connect(outside.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for _, m := range []string{
		`[{"replica":"b","host":"forged","online":true,"connection":99}]`,
		`{"replica":"b","at":"` + time.Now().UTC().Format(time.RFC3339Nano) + `","message":[{"host":"forged"}],"signature":"AAAA"}`, "garbage", "",
	} {
		if err := stranger.Publish(subjectPresence, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stranger.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*Bus{late, other} {
		if err := b.Announce([]Presence{{HostID: "real"}}); err != nil {
			t.Fatal(err)
		}
		if err := b.conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case p := <-heard:
		if p.HostID != "real" {
			t.Errorf("heard of %q", p.HostID)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the other replica was not heard")
	}
	if all, forged := us.Heard(); all != 6 || forged != 5 {
		t.Errorf("heard %d, dropped %d; wanted 6 and 5", all, forged)
	}
	if len(heard) > 0 {
		t.Errorf("also heard %+v", <-heard)
	}
}
