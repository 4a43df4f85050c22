package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
)

// wire is a connection in memory.
type wire struct {
	in, out chan []byte
	cut     chan struct{}
	once    *sync.Once
}

func wires() (a, b *wire) {
	x, y, cut, once := make(chan []byte, 1), make(chan []byte, 1), make(chan struct{}), new(sync.Once)
	return &wire{x, y, cut, once}, &wire{y, x, cut, once}
}

func (w *wire) Send(ctx context.Context, m []byte) error {
	select {
	case w.out <- bytes.Clone(m):
		return nil
	case <-w.cut:
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *wire) Receive(ctx context.Context) ([]byte, error) {
	select {
	case m := <-w.in:
		return m, nil
	case <-w.cut:
		return nil, io.ErrClosedPipe
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) Close() error { w.once.Do(func() { close(w.cut) }); return nil }

// plane is a control plane's end that records what comes.
type plane struct {
	t      *testing.T
	end    *stream.End
	writer *recording.Writer
	head   chan recording.Head // of the host's
	origin uint64

	mu    sync.Mutex
	seen  bytes.Buffer
	marks []string
	exit  *recording.Ending
	more  chan struct{}
	typed uint64
}

// session begins one whose host runs at the other end; ended tells what Run returned.
func session(t *testing.T, change func(*Options)) (p *plane, drop func(), ended <-chan error) {
	t.Helper()
	name := id.New("ses", time.Now())
	order := shell.Order{Session: name, Secret: recording.NewSecret(), Host: "db-7", Who: "ada", Reason: "a test", Cols: 80, Rows: 24, Term: "xterm", Start: time.Now()}
	spool, err := recording.OpenSpool(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Order: order, Spool: spool, End: stream.New(stream.Options{}), Start: Direct, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	w, err := recording.Create(filepath.Join(t.TempDir(), name), name, recording.NewKeyring(order.Secret))
	if err != nil {
		t.Fatal(err)
	}
	p = &plane{t: t, end: stream.New(stream.Options{}), writer: w, head: make(chan recording.Head, 1), more: make(chan struct{}, 1), origin: 7}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	var mu sync.Mutex
	var current *wire
	work.Go(func() {
		_ = o.End.Keep(ctx, time.Minute, func(ctx context.Context) (stream.Conn, error) {
			a, b := wires()
			mu.Lock()
			current = a
			mu.Unlock()
			work.Go(func() { _ = p.end.Carry(ctx, b) })
			return a, nil
		})
	})
	done := make(chan error, 1)
	work.Go(func() { done <- New(o).Run(ctx) })
	work.Go(func() { p.record(ctx) })
	t.Cleanup(func() {
		cancel()
		work.Wait()
		_ = w.Close()
	})
	return p, func() {
		mu.Lock()
		defer mu.Unlock()
		if current != nil {
			_ = current.Close()
		}
	}, done
}

func (p *plane) record(ctx context.Context) {
	in := p.end.Reader(shell.Events(0))
	p.end.Reader(shell.Applied(0)).Stop()
	go func() {
		r := p.end.Reader(shell.Closing)
		b, err := io.ReadAll(r)
		var h recording.Head
		if err == nil && json.Unmarshal(b, &h) == nil {
			p.head <- h
		}
	}()
	var buffer []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := in.Next(ctx, chunk)
		buffer = append(buffer, chunk[:n]...)
		for {
			e, size, bad := recording.ParseFrame(buffer)
			if bad != nil {
				p.t.Error(bad)
				return
			}
			if size == 0 {
				break
			}
			if err := p.writer.Add(e); err != nil {
				p.t.Error(err)
				return
			}
			p.mu.Lock()
			switch e.Kind {
			case recording.Output:
				p.seen.Write(e.Data)
			case recording.Marker:
				p.marks = append(p.marks, string(e.Data))
			case recording.Exit:
				p.exit = new(recording.Ending)
				_ = json.Unmarshal(e.Data, p.exit)
			}
			p.mu.Unlock()
			notify(p.more)
			buffer = buffer[size:]
		}
		in.Ack(in.Offset() - uint64(len(buffer)))
		if err != nil {
			if errors.Is(err, io.EOF) {
				in.Ack(in.Offset())
			}
			return
		}
	}
}

// await waits until the session has shown something.
func (p *plane) await(what string) {
	p.t.Helper()
	over := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		seen := p.seen.String()
		p.mu.Unlock()
		if strings.Contains(seen, what) {
			return
		}
		select {
		case <-p.more:
		case <-over:
			p.t.Fatalf("%q was not shown; shown was %q", what, seen[max(0, len(seen)-2000):])
		}
	}
}

func (p *plane) typing(s string) {
	b := shell.Input{Origin: p.origin, Offset: p.typed, Data: []byte(s)}.Append(nil)
	p.typed += uint64(len(s))
	if _, err := p.end.Writer(shell.Typed).Write(b); err != nil {
		p.t.Error(err)
	}
}

func (p *plane) do(a shell.Act, text string) {
	if _, err := p.end.Writer(shell.Control).Write(shell.Do{Act: a, Text: text}.Append(nil)); err != nil {
		p.t.Error(err)
	}
}

// over waits for the end and holds the two recordings against each other.
func (p *plane) over(ended <-chan error) recording.Ending {
	p.t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			p.t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		p.t.Fatal("the session does not end")
	}
	host := <-p.head
	if own, err := p.writer.End(); err != nil || own != host {
		p.t.Errorf("the recordings differ: ours %+v, %v; the host's %+v", own, err, host)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit == nil {
		p.t.Fatal("the recording has no end")
	}
	return *p.exit
}

func TestASessionIsTypedShownAndRecordedTwice(t *testing.T) {
	p, _, ended := session(t, nil)
	p.await("This session on db-7 is recorded.")
	p.typing("stty size; printf 'a\\tb\\377c\\n'; echo $LOOPBACK_SESSION\n")
	p.await("24 80")
	p.await("ses_")
	p.do(shell.DoResize, "132x43")
	p.typing("until [ $(stty size | tr ' ' x) = 43x132 ]; do sleep 0.05; done; stty size\n") // a size and a key go by ways of their own
	p.await("43 132")
	p.do(shell.DoMark, "grace watches")
	p.typing("exit 3\n")
	if e := p.over(ended); e.Status != 3 || e.Reason != "" {
		t.Errorf("got %+v, want status 3 and no reason", e)
	}
	if len(p.marks) != 1 || p.marks[0] != "grace watches" {
		t.Errorf("markers: %q", p.marks)
	}
}

// The connection is cut while much is shown and typed: nothing is lost or doubled, in either direction.
func TestCutsLoseNothing(t *testing.T) {
	p, drop, ended := session(t, nil)
	p.await("recorded")
	p.typing("stty -echo; i=0; while [ $i -lt 3000 ]; do echo line-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done; echo; cat > /dev/null; echo\n")
	for range 10 {
		time.Sleep(20 * time.Millisecond) // the cuts come at times of their own
		drop()
	}
	p.await("line-2999-")
	p.typing("\x04")
	p.typing("exit\n")
	p.over(ended)
	var want strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&want, "line-%d-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n", i)
	}
	if !strings.Contains(p.seen.String(), want.String()) {
		t.Error("what was shown is not what the program wrote")
	}
}

func TestWhatIsTypedTwiceIsTypedOnce(t *testing.T) {
	p, _, ended := session(t, nil)
	p.await("recorded")
	p.typing("echo on")
	p.typed -= 4 // somebody who came back sends again what was not confirmed
	p.typing("o on")
	p.typing("ce; exit\n")
	p.over(ended)
	if s := p.seen.String(); strings.Count(s, "once\r\n") != 1 || strings.Contains(s, "onon") {
		t.Errorf("shown was %q", s)
	}
}

func TestKillEndsAllThatWasStarted(t *testing.T) {
	p, _, ended := session(t, nil)
	p.await("recorded")
	p.typing("trap '' HUP INT TERM; (trap '' HUP; sleep 1000) & sleep 1000\n")
	p.await("sleep 1000")
	p.do(shell.DoEnd, "ended by grace: \x1b[2Jenough")
	if e := p.over(ended); e.Reason != "ended by grace:  [2Jenough" {
		t.Errorf("got %+v", e)
	}
}

// Ctrl-C reaches a program that floods, though nobody takes what it shows as fast.
func TestAFloodCanBeStopped(t *testing.T) {
	p, _, ended := session(t, nil)
	p.await("recorded")
	p.typing("trap 'echo stopped' INT; yes; echo then\n")
	p.await("y\r\ny\r\n")
	p.typing("\x03")
	p.await("then")
	p.typing("exit\n")
	p.over(ended)
}

// While nobody is connected the program goes on: the terminal is drained.
func TestTheTerminalIsDrainedWhileDetached(t *testing.T) {
	first := make(chan struct{})
	p, drop, ended := session(t, nil)
	close(first)
	p.await("recorded")
	p.typing("stty -echo; sleep 0.2; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done-$((40+2))\n")
	drop()
	p.await("done-42")
	p.typing("exit\n")
	p.over(ended)
}

func TestTimesEndASession(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*shell.Order)
		want   string
	}{
		"idle":    {func(o *shell.Order) { o.Idle = time.Second }, "nobody typed for 1s"},
		"longest": {func(o *shell.Order) { o.Longest = time.Second }, "its longest time of 1s is over"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, ended := session(t, func(o *Options) { c.change(&o.Order) })
			if e := p.over(ended); e.Reason != c.want {
				t.Errorf("got %q, want %q", e.Reason, c.want)
			}
		})
	}
}

func TestNobodyTypesForLong(t *testing.T) {
	p, _, ended := session(t, func(o *Options) { o.Order.Detached = time.Second })
	p.await("recorded")
	p.do(shell.DoHold, "")
	if e := p.over(ended); e.Reason != "nobody was there for 1s" {
		t.Errorf("got %q", e.Reason)
	}
}

func TestAShellThatCannotBeStartedSaysWhy(t *testing.T) {
	p, _, ended := session(t, func(o *Options) {
		o.Start = func(context.Context, shell.Order, string) (Program, error) {
			return nil, errors.New("there is no user \"eve\" on this host")
		}
	})
	p.await("there is no user")
	if e := p.over(ended); e.Status != 126 || !strings.Contains(e.Reason, "no user") {
		t.Errorf("got %+v", e)
	}
}
