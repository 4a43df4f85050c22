package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/fault"
)

var (
	seed  = flag.Uint64("seed", 0, "of the random runs; 0: another each time")
	cases = flag.Int("cases", 60, "random runs")
)

var errCut = fault.New(fault.Unavailable, "cut", "the connection was cut")

// pipe is a connection in memory: a bounded queue of messages each way, which can be cut or swallow what it gets.
type pipe struct {
	once sync.Once
	cut  chan struct{}
	mu   sync.Mutex
	hole bool
	up   chan []byte // host to control plane
	down chan []byte
}

func newPipe(depth int) *pipe {
	return &pipe{cut: make(chan struct{}), up: make(chan []byte, depth), down: make(chan []byte, depth)}
}

func (p *pipe) snap() { p.once.Do(func() { close(p.cut) }) }

func (p *pipe) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = true
}

func (p *pipe) swallows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}

// side is one end of a pipe, a Conn.
type side struct {
	*pipe
	out, in chan []byte
}

func (s side) Send(ctx context.Context, message []byte) error {
	if len(message) > MaxMessage {
		panic("a message is too long")
	}
	if s.swallows() {
		return nil
	}
	select {
	case s.out <- bytes.Clone(message):
		return nil
	case <-s.cut:
		return errCut
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s side) Receive(ctx context.Context) ([]byte, error) {
	for {
		select {
		case <-s.cut:
			return nil, errCut
		case <-ctx.Done():
			return nil, ctx.Err()
		case m := <-s.in:
			if !s.swallows() {
				return m, nil
			}
		}
	}
}

func (s side) Close() error { s.snap(); return nil }

func (p *pipe) host() side  { return side{p, p.up, p.down} }
func (p *pipe) plane() side { return side{p, p.down, p.up} }

// connect gives two Ends a connection each time that the host dials.
type network struct {
	mu    sync.Mutex
	plane *End
	last  *pipe
	depth int
	work  sync.WaitGroup
	dials int
}

func (n *network) dial(ctx context.Context) (Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	if n.plane == nil {
		return nil, errCut
	}
	p, plane := newPipe(n.depth), n.plane
	n.last = p
	n.work.Go(func() { _ = plane.Carry(context.Background(), p.plane()) })
	return p.host(), nil
}

func (n *network) now() *pipe {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

func (n *network) serve(e *End) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.plane = e
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func write(r *rand.Rand, w *Writer, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), 1+r.IntN(1<<(4+r.IntN(14))))
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
		if r.IntN(4) == 0 {
			time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		}
	}
	return w.Close()
}

// TestNoByteIsLostOrDoubled cuts connections in every way at random moments, and replaces the control plane's End by one
// that knows only what was acknowledged, with bytes under way in both directions.
func TestNoByteIsLostOrDoubled(t *testing.T) {
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	t.Logf("-seed %d", first)
	cuts := 0
	for i := range *cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { cuts += cutAtRandom(t, rand.New(rand.NewPCG(first, uint64(i)))) })
		})
	}
	t.Logf("%d cuts", cuts)
}

func cutAtRandom(t *testing.T, r *rand.Rand) (cuts int) {
	fork := func() *rand.Rand { return rand.New(rand.NewPCG(r.Uint64(), r.Uint64())) }
	window := MaxPayload << r.IntN(6)
	up, up2, down := randomBytes(r, r.IntN(1<<21)), randomBytes(r, r.IntN(1<<16)), randomBytes(r, r.IntN(1<<20))
	n := &network{depth: r.IntN(8)}
	host := New(Options{Window: window})
	planeWindow := MaxPayload << r.IntN(6)

	// The control plane's side: what it has stored outlives its End.
	var stored, stored2 []byte
	finished := make(chan struct{})
	var plane *End
	var readers *sync.WaitGroup // of the plane's, which a dead one takes with it
	start := func() {
		plane = New(Options{Window: planeWindow})
		read := func(plane *End, channel byte, into *[]byte, rr *rand.Rand) error {
			reader := plane.ReaderAt(channel, uint64(len(*into)))
			buffer := make([]byte, 1+rr.IntN(64<<10))
			var pending []byte // read, not stored
			for {
				k, err := reader.Next(context.Background(), buffer)
				pending = append(pending, buffer[:k]...)
				if err == nil && rr.IntN(3) > 0 && len(pending) < MaxPayload {
					continue
				}
				if plane.Err() == nil || err == io.EOF { // a dead control plane stores nothing
					*into = append(*into, pending...)
					pending = nil
					reader.Ack(uint64(len(*into)))
				}
				if err != nil {
					return err
				}
				if rr.IntN(8) == 0 {
					time.Sleep(time.Duration(rr.IntN(50)) * time.Millisecond)
				}
			}
		}
		e, one, two := plane, fork(), fork()
		both := new(sync.WaitGroup)
		readers = both
		ok := [2]bool{}
		// Readers must be there before the first attachment.
		e.ReaderAt(1, uint64(len(stored)))
		e.ReaderAt(2, uint64(len(stored2)))
		both.Go(func() { ok[0] = read(e, 1, &stored, one) == io.EOF })
		both.Go(func() { ok[1] = read(e, 2, &stored2, two) == io.EOF })
		n.work.Go(func() {
			both.Wait()
			if ok[0] && ok[1] {
				select {
				case <-finished:
				default:
					close(finished)
				}
			}
		})
		w := fork()
		n.work.Go(func() { _ = write(w, e.Writer(0), down) })
		n.serve(e)
	}
	start()

	one, two := fork(), fork()
	n.work.Go(func() { _ = write(one, host.Writer(1), up) })
	n.work.Go(func() { _ = write(two, host.Writer(2), up2) })
	got := sha256.New()
	gotAll := make(chan struct{})
	n.work.Go(func() {
		if _, err := io.Copy(got, host.Reader(0)); err != nil {
			t.Errorf("reading on the host: %v", err)
		}
		close(gotAll)
	})
	kept := make(chan error, 1)
	n.work.Go(func() { kept <- host.Keep(context.Background(), time.Hour, n.dial) })

	for range r.IntN(60) {
		time.Sleep(time.Duration(r.IntN(1<<r.IntN(9))) * time.Millisecond)
		p := n.now()
		if p == nil {
			continue
		}
		switch r.IntN(5) {
		case 0, 1, 2:
			p.snap()
			cuts++
		case 3:
			p.swallow()
			cuts++
		case 4:
			dead := plane
			n.serve(nil)
			p.snap()
			dead.fail(errCut)
			readers.Wait()
			time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
			start()
			cuts++
		}
	}
	<-finished
	<-gotAll
	if err := host.Flush(context.Background()); err != nil {
		t.Errorf("Flush: %v", err)
	}
	host.Close(nil)
	if err := <-kept; err != nil {
		t.Errorf("Keep: %v", err)
	}
	plane.Close(nil)
	n.work.Wait()
	if !bytes.Equal(stored, up) || !bytes.Equal(stored2, up2) {
		t.Errorf("the control plane has %d and %d bytes, want the %d and %d that were written", len(stored), len(stored2), len(up), len(up2))
	}
	if want := sha256.Sum256(down); !bytes.Equal(got.Sum(nil), want[:]) {
		t.Errorf("the host got other than the %d bytes that were written", len(down))
	}
	return cuts
}

// pair gives two Ends that are attached, and what they are attached by.
func pair(t *testing.T, window int) (host, plane *End, n *network) {
	host, plane, n = New(Options{Window: window}), New(Options{Window: window}), &network{depth: 4}
	n.serve(plane)
	n.work.Go(func() { _ = host.Keep(context.Background(), time.Hour, n.dial) })
	t.Cleanup(func() {
		host.Close(nil)
		plane.Close(nil)
		n.work.Wait()
	})
	return host, plane, n
}

func TestAReaderThatVanishedCostsAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plane, _ := pair(t, DefaultWindow)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		taken, err := host.Writer(1).WriteContext(ctx, make([]byte, 64<<20))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("WriteContext = %v, want it to wait for its reader", err)
		}
		if taken > 2*DefaultWindow {
			t.Errorf("%d bytes were taken, want %d at most", taken, 2*DefaultWindow)
		}
		if held := plane.Reader(1).ring.size; held > DefaultWindow {
			t.Errorf("the control plane holds %d bytes, want %d at most", held, DefaultWindow)
		}
		if c := host.Counts(); c.Attachments != 1 {
			t.Errorf("%d attachments, want 1: a slow reader is no dead connection", c.Attachments)
		}
	})
}

func TestAStoppedChannelLetsItsWriterGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plane, _ := pair(t, 0)
		plane.Reader(1).Stop()
		w := host.Writer(1)
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				if !errors.Is(err, ErrStopped) {
					t.Errorf("Write = %v, want ErrStopped", err)
				}
				break
			}
			time.Sleep(time.Millisecond)
		}
		// The other channels go on.
		if _, err := host.Writer(2).Write([]byte("still here")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 32)
		k, err := plane.Reader(2).Read(b)
		if string(b[:k]) != "still here" || err != nil {
			t.Errorf("Read = %q, %v", b[:k], err)
		}
	})
}

func TestABlackHoleCostsSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plane, n := pair(t, 0)
		write := func(s string) time.Duration {
			began := time.Now()
			if _, err := host.Writer(1).Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 32)
			k, err := plane.Reader(1).Read(b)
			if string(b[:k]) != s || err != nil {
				t.Errorf("Read = %q, %v; want %q", b[:k], err, s)
			}
			return time.Since(began)
		}
		write("before")
		time.Sleep(time.Second)
		n.now().swallow()
		if took := write("after"); took > pingBusy+pongWithin+time.Second {
			t.Errorf("it took %v until bytes passed again", took)
		}
		if c := host.Counts(); c.Resent == 0 {
			t.Error("nothing was sent again: the hole swallowed nothing, and this test shows nothing")
		}
	})
}

func TestTheReasonCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plane, _ := pair(t, 0)
		_, _ = host.Writer(1).Write([]byte("x"))
		if _, err := plane.Reader(1).Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		plane.Close(fault.New(fault.Denied, "grant_ended", "the grant was revoked"))
		<-host.Done()
		if f := fault.Of(host.Err()); f.Code != "grant_ended" || f.Kind != fault.Denied || f.Message != "the grant was revoked" {
			t.Errorf("the host's end is over for %v, want the reason given", f)
		}
		if _, err := host.Writer(1).Write([]byte("y")); fault.Of(err).Code != "grant_ended" {
			t.Errorf("Write = %v", err)
		}
	})
}

func TestWhatIsReceivedBeforeTheEndIsReadBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plane, _ := pair(t, 0)
		_, _ = host.Writer(1).Write([]byte("last words"))
		synctest.Wait()
		host.Close(fault.New(fault.Internal, "broken", "broken"))
		<-plane.Done()
		b, err := io.ReadAll(plane.Reader(1))
		if string(b) != "last words" || fault.Of(err).Code != "broken" {
			t.Errorf("ReadAll = %q, %v", b, err)
		}
	})
}

func TestABytePastTheGrantEndsTheSession(t *testing.T) {
	e := New(Options{Window: MaxPayload})
	a := e.Attach(nowhere{})
	resume := appendFrame(nil, frame{kind: typeResume, offset: MaxPayload})
	if err := a.Receive(resume); err != nil {
		t.Fatal(err)
	}
	full := appendFrame(nil, frame{kind: typeData, channel: 1, payload: make([]byte, MaxPayload)})
	if err := a.Receive(full); err != nil {
		t.Fatal(err)
	}
	if err := a.Receive(appendFrame(nil, frame{kind: typeData, channel: 1, offset: MaxPayload, payload: []byte{1}})); !errors.Is(err, ErrMalformed) {
		t.Errorf("Receive = %v, want ErrMalformed", err)
	}
	if !errors.Is(e.Err(), ErrMalformed) {
		t.Errorf("Err = %v", e.Err())
	}
}

func TestAnEndThatForgotIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plane, n := pair(t, 0)
		_, _ = host.Writer(1).Write([]byte("consumed"))
		_, _ = plane.Reader(1).Read(make([]byte, 8))
		time.Sleep(time.Second)
		n.serve(New(Options{})) // whose offset is 0 again
		n.now().snap()
		<-host.Done()
		if !errors.Is(host.Err(), ErrGone) {
			t.Errorf("Err = %v, want ErrGone", host.Err())
		}
	})
}

type nowhere struct{}

func (nowhere) Send([]byte) error { return nil }
func (nowhere) Close(error)       {}

// FuzzReceive feeds an End what a broken or hostile peer may send: it holds no more than its windows, and does not panic.
func FuzzReceive(f *testing.F) {
	resume := appendFrame(nil, frame{kind: typeResume, offset: MaxPayload, payload: appendMark(nil, mark{channel: 1, received: 3, consumed: 2, limit: 9})})
	f.Add(resume)
	f.Add(appendFrame(bytes.Clone(resume), frame{kind: typeData, channel: 2, payload: []byte("abc")}))
	f.Add(appendFrame(bytes.Clone(resume), frame{kind: typeEnd, channel: 2}))
	f.Add(appendFrame(bytes.Clone(resume), frame{kind: typeAck, channel: 1, offset: 3, payload: make([]byte, 9)}))
	f.Add(appendFrame(bytes.Clone(resume), frame{kind: typeStop, channel: 1}))
	f.Add(appendFrame(nil, frame{kind: typeBye, payload: encodeReason(ErrGone)}))
	f.Fuzz(func(t *testing.T, message []byte) {
		e := New(Options{Window: MaxPayload})
		_, _ = e.Writer(1).Write([]byte("hello"))
		e.Reader(3).Stop()
		a := e.Attach(nowhere{})
		e.mu.Lock()
		_, _, _ = a.compose(nil, time.Now())
		e.mu.Unlock()
		for range 3 {
			if a.Receive(message) != nil {
				break
			}
			e.mu.Lock()
			b, _, _ := a.compose(make([]byte, 0, MaxMessage), time.Now())
			e.mu.Unlock()
			if len(b) > MaxMessage {
				t.Fatalf("a message of %d bytes", len(b))
			}
		}
		held := 0
		for _, r := range e.readers {
			if r != nil {
				held += r.ring.size
			}
		}
		if held > MaxChannels*MaxPayload {
			t.Fatalf("%d bytes are held", held)
		}
	})
}
