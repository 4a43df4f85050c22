package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/trust"
)

// poller speaks the polling protocol by hand.
type poller struct {
	t      testing.TB
	url    string
	client *http.Client
	id     string
	s      *session
}

func newPoller(t testing.TB, server *control) *poller {
	t.Helper()
	p := &poller{t: t, url: server.http.URL + "/agent/v1/poll"}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.roots()}}
	p.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	handshake, first, _ := initiate()
	status, header, body := p.post(t.Context(), "", "", appendMessage(nil, first))
	if status != http.StatusOK {
		t.Fatalf("the handshake got %d", status)
	}
	p.id = header.Get(headerLink)
	var second []byte
	_ = splitBody(body, func(m []byte) bool { second = m; return false })
	var err error
	if p.s, _, _, err = handshake.finish(second, []trust.AnchorHash{server.hash()}, 0, rekeyInterval); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *poller) post(ctx context.Context, lane, sequence string, body []byte) (int, http.Header, []byte) {
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	for key, value := range map[string]string{headerLink: p.id, headerLane: lane, headerSequence: sequence} {
		if value != "" {
			request.Header.Set(key, value)
		}
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return 0, nil, []byte(err.Error())
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, text
}

func (p *poller) seal(envelope string) (body []byte) {
	_ = p.s.out.sealEnvelope([]byte(envelope), maxFragment, func(m []byte) error { body = appendMessage(body, m); return nil })
	return body
}

// open reads the envelopes of an answer.
func (p *poller) open(body []byte) (envelopes []string) {
	var parts assembly
	err := splitBody(body, func(m []byte) bool {
		plain, err := p.s.in.open(bytes.Clone(m))
		if err != nil {
			p.t.Fatalf("an answer does not open: %v", err)
		}
		if envelope, complete, _ := parts.add(plain); complete {
			envelopes = append(envelopes, string(envelope))
		}
		return true
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return envelopes
}

func TestARepeatedUpIsTakenOnce(t *testing.T) {
	var taken atomic.Int64
	server := newControl(t, func(*Link, []byte) { taken.Add(1) })
	p := newPoller(t, server)
	body := p.seal("once")
	for range 3 {
		if status, _, _ := p.post(t.Context(), laneUp, "1", body); status != http.StatusOK {
			t.Fatalf("got %d, want 200", status)
		}
	}
	if n := taken.Load(); n != 1 {
		t.Fatalf("it was taken %d times, want once", n)
	}
}

func TestARepeatedDownGetsTheSameAnswer(t *testing.T) {
	server := newControl(t, echo)
	p := newPoller(t, server)
	p.post(t.Context(), laneUp, "1", p.seal("one"))
	_, _, first := p.post(t.Context(), laneDown, "1", nil)
	p.post(t.Context(), laneUp, "2", p.seal("two"))
	_, _, again := p.post(t.Context(), laneDown, "1", nil)
	if !bytes.Equal(first, again) {
		t.Fatal("the answer to the same number is not the same")
	}
	if got := p.open(first); len(got) != 1 || got[0] != "one" {
		t.Fatalf("got %q, want one", got)
	}
	_, _, next := p.post(t.Context(), laneDown, "2", nil)
	if got := p.open(next); len(got) != 1 || got[0] != "two" {
		t.Fatalf("got %q, want two", got)
	}
}

func TestTheNewerOfTwoRacingPollsIsAnswered(t *testing.T) {
	server := newControl(t, echo)
	p := newPoller(t, server)
	p.post(t.Context(), laneUp, "1", p.seal("one"))
	_, _, one := p.post(t.Context(), laneDown, "1", nil)
	p.open(one)
	type answer struct {
		status int
		body   []byte
	}
	answers := make(chan answer, 2)
	ask := func() {
		status, _, body := p.post(t.Context(), laneDown, "2", nil)
		answers <- answer{status, body}
	}
	session := server.polls.find(p.id)
	parked := func(not chan struct{}) chan struct{} {
		for {
			session.mu.Lock()
			place := session.parked
			session.mu.Unlock()
			if place != nil && place != not {
				return place
			}
			time.Sleep(time.Millisecond)
		}
	}
	go ask()
	first := parked(nil)
	go ask()
	parked(first)
	if got := <-answers; got.status != http.StatusConflict {
		t.Fatalf("the older got %d, want 409", got.status)
	}
	p.post(t.Context(), laneUp, "2", p.seal("two"))
	got := <-answers
	if envelopes := p.open(got.body); got.status != http.StatusOK || len(envelopes) != 1 || envelopes[0] != "two" {
		t.Fatalf("the newer got %d %q, want 200 and two", got.status, envelopes)
	}
}

func TestAParkedPollIsAnsweredEmptyInTime(t *testing.T) {
	server := newControl(t, echo, func(s *Server) { s.ParkTimeout = 50 * time.Millisecond })
	p := newPoller(t, server)
	p.post(t.Context(), laneUp, "1", p.seal("one"))
	p.post(t.Context(), laneDown, "1", nil)
	for n := 2; n < 5; n++ {
		if status, _, body := p.post(t.Context(), laneDown, strconv.Itoa(n), nil); status != http.StatusOK || len(body) > 0 {
			t.Fatalf("got %d with %d bytes, want 200 with none", status, len(body))
		}
	}
}

func TestRequestsThatNoAgentMakes(t *testing.T) {
	server := newControl(t, echo)
	p := newPoller(t, server)
	p.post(t.Context(), laneUp, "1", p.seal("one"))
	get, err := p.client.Get(p.url)
	if err != nil {
		t.Fatal(err)
	}
	get.Body.Close()
	if get.StatusCode != http.StatusMethodNotAllowed {
		t.Fatalf("GET got %d, want 405", get.StatusCode)
	}
	whole := p.id
	for _, test := range []struct {
		name, id, lane, sequence string
		body                     []byte
		want                     int
	}{
		{"an unknown session", "-NOPE", laneUp, "1", []byte{0}, 410},
		{"no lane", whole, "", "2", []byte{0}, 400},
		{"no sequence", whole, laneUp, "", []byte{0}, 400},
		{"sequence zero", whole, laneUp, "0", []byte{0}, 400},
		{"a negative sequence", whole, laneUp, "-1", []byte{0}, 400},
		{"too long a body", whole, laneUp, "2", make([]byte, maxBody+1), 413},
		{"an empty handshake", "", "", "", nil, 400},
		{"two handshakes", "", "", "", appendMessage(appendMessage(nil, make([]byte, 32)), make([]byte, 32)), 400},
		{"a handshake of zeros", "", "", "", appendMessage(nil, make([]byte, 32)), 400},
		{"a handshake cut off", "", "", "", []byte{0, 32, 1}, 400},
	} {
		p.id = test.id
		if status, _, _ := p.post(t.Context(), test.lane, test.sequence, test.body); status != test.want {
			t.Errorf("%s: got %d, want %d", test.name, status, test.want)
		}
	}
	p.id = whole
	if status, _, _ := p.post(t.Context(), laneUp, "2", p.seal("still there")); status != http.StatusOK {
		t.Fatalf("the link did not survive: %d", status)
	}
}

func TestABodyThatWasCutEndsTheLink(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"cut":                  func(b []byte) []byte { return b[:len(b)-1] },
		"padded":               func(b []byte) []byte { return append(b, 0) },
		"emptied":              func([]byte) []byte { return nil },
		"another number":       func(b []byte) []byte { return b },
		"lengths that overrun": func(b []byte) []byte { b[0] = 0xff; return b },
	} {
		server := newControl(t, echo)
		p := newPoller(t, server)
		p.post(t.Context(), laneUp, "1", p.seal("one"))
		sequence := "2"
		if name == "another number" {
			sequence = "7"
		}
		p.post(t.Context(), laneUp, sequence, change(p.seal("two")))
		wantCode(t, name, (<-server.peers).ended(t), "link_tampered")
		_, _, last := p.post(t.Context(), laneDown, "1", nil)
		p.open(last) // its seal holds
		if status, _, _ := p.post(t.Context(), laneDown, "2", nil); status != http.StatusGone {
			t.Errorf("%s: then got %d, want 410", name, status)
		}
	}
}

// A network that loses every third request or answer loses no envelope and repeats none.
func TestPollsSurviveLostRequestsAndAnswers(t *testing.T) {
	server := newControl(t, echo)
	var n atomic.Int64
	inner := server.http.Config.Handler
	lossy := stub(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(headerLink) == "" {
			inner.ServeHTTP(w, r)
			return
		}
		switch n.Add(1) % 6 {
		case 2:
			panic(http.ErrAbortHandler) // the request is lost
		case 4:
			inner.ServeHTTP(httptest.NewRecorder(), r) // the answer is lost
			panic(http.ErrAbortHandler)
		case 0:
			w.WriteHeader(http.StatusBadGateway) // a proxy's hiccup
		default:
			inner.ServeHTTP(w, r)
		}
	})
	d := server.dialer(Poll)
	d.Endpoint, d.TLS = lossy.URL, trusting(lossy)
	c := dial(t, d)
	const count = 25
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for i := range count {
			if err := c.Send(t.Context(), fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", i*i))); err != nil {
				t.Errorf("send %d: %v", i, err)
				return
			}
		}
	})
	for i := range count {
		envelope, err := c.Receive(within(t, 30*time.Second))
		if err != nil {
			t.Fatalf("receive %d: %v", i, err)
		}
		if want := fmt.Sprintf("%d %s", i, strings.Repeat("x", i*i)); string(envelope) != want {
			t.Fatalf("envelope %d is %.20q", i, envelope)
		}
	}
}

func TestSessionsThatTheirAgentLeftEnd(t *testing.T) {
	server := newControl(t, echo)
	p := newPoller(t, server)
	p.post(t.Context(), laneUp, "1", p.seal("one"))
	owner := <-server.peers
	session := server.polls.find(p.id)
	if session.overdue(time.Now().Add(pollGrace-time.Second)) || owner.link.ended.Load() != nil {
		t.Fatal("the link ended before its grace was over")
	}
	session.overdue(time.Now().Add(pollGrace + time.Second))
	wantCode(t, "the server's end", owner.ended(t), "link_lost")
	if !session.overdue(time.Now().Add(pollGrace)) {
		t.Fatal("the session is not forgotten")
	}
}

func TestPollsOfAnotherReplicaAreForwarded(t *testing.T) {
	var forwarded atomic.Value
	server := newControl(t, echo, func(s *Server) {
		s.Replica = "a"
		s.Forward = func(w http.ResponseWriter, _ *http.Request, replica string) {
			forwarded.Store(replica)
			w.WriteHeader(http.StatusTeapot)
		}
	})
	p := newPoller(t, server)
	if !strings.HasPrefix(p.id, "a-") {
		t.Fatalf("the id is %s, want the replica's name before it", p.id)
	}
	if status, _, _ := p.post(t.Context(), laneUp, "1", p.seal("x")); status != http.StatusOK {
		t.Fatalf("its own got %d", status)
	}
	p.id = "b" + p.id[1:]
	if status, _, _ := p.post(t.Context(), laneUp, "2", p.seal("x")); status != http.StatusTeapot || forwarded.Load() != "b" {
		t.Fatalf("another's got %d, forwarded to %v", status, forwarded.Load())
	}
}

func TestPollSessionsAreBounded(t *testing.T) {
	server := newControl(t, echo, func(s *Server) { s.MaxPolls = 2 })
	newPoller(t, server)
	newPoller(t, server)
	_, err := server.dialer(Poll).Dial(t.Context())
	wantCode(t, "one too many", err, "too_busy")
}
