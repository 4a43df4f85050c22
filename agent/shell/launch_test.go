package shell

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// The control plane has a host drop what it recorded, also where shells are not allowed any more; what it came to stays, and the journal
// says so.
func TestWhatWasRecordedIsDroppedWhenTheControlPlaneSaysSo(t *testing.T) {
	var journal bytes.Buffer
	l := Launcher{StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&journal, nil))}
	session := id.New("ses", time.Now())
	dir := filepath.Join(l.StateDir, RecordingsDir, session)
	w, err := recording.Create(dir, session, recording.NewKeyring(recording.NewSecret()))
	if err == nil {
		err = w.Add(recording.Event{Kind: recording.Output, Data: []byte("hunter2")})
	}
	if err != nil {
		t.Fatal(err)
	}
	head, err := w.End()
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	forget := func(session string) error {
		t.Helper()
		order, err := shell.Order{Forget: session}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return l.Launch(t.Context(), order, "", nil, "")
	}
	for range 2 { // the second time there is nothing to do
		if err := forget(session); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := recording.Held(dir); n != 0 || err != nil {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	if r, err := recording.Open(dir, nil); err != nil || r.Head() != head {
		t.Errorf("what it came to: %v", err)
	}
	if got := journal.String(); strings.Count(got, session) != 1 {
		t.Errorf("the journal has %q", got)
	}
	if err := forget(id.New("ses", time.Now())); err != nil {
		t.Errorf("a session of which there is nothing: %v", err)
	}
	for _, odd := range []string{"..", "ses_x", "../" + session} {
		if err := forget(odd); fault.Of(err).Code != "shell_order_invalid" {
			t.Errorf("%q: %v", odd, err)
		}
	}
}

// An agent that knows only sessions takes an order to forget for none.
func TestAnOrderToForgetBeginsNothing(t *testing.T) {
	order, err := shell.Order{Forget: id.New("ses", time.Now())}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if o, err := shell.ParseOrder(order); err != nil || o.Session != "" {
		t.Errorf("got %+v, %v", o, err)
	}
}
