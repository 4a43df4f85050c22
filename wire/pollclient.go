package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Patience of an agent that polls.
const (
	pollAnswerTimeout = 40 * time.Second // for one answer; a server parks a poll for less
	pollRetryFirst    = 100 * time.Millisecond
	pollRetryLast     = 3 * time.Second
	pollGiveUp        = pollGrace // without a single answer; the server forgets the session by then
)

// dialPoll makes a link by polling.
func (w way) dialPoll(ctx context.Context) (*Conn, error) {
	handshake, first, err := initiate()
	if err != nil {
		return nil, err
	}
	p := &agentPoll{
		url: w.url("/agent/v1/poll").String(), agent: w.UserAgent,
		client: &http.Transport{
			DialTLSContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return orConn(w.connect(ctx)) },
			MaxIdleConnsPerHost:   2,
			IdleConnTimeout:       90 * time.Second,
			ResponseHeaderTimeout: pollAnswerTimeout,
			DisableCompression:    true,
		},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	shaking, cancel := context.WithTimeout(ctx, 3*w.Timeout)
	defer cancel()
	answer, header, err := p.post(shaking, "", 0, appendMessage(nil, first))
	var second []byte
	if err == nil {
		p.id = header.Get(headerLink)
		err = splitBody(answer, func(m []byte) bool { second = m; return false })
		if err != nil || p.id == "" || len(p.id) > 128 {
			err = ErrHandshake.WithCause(err)
		}
	}
	if err != nil {
		p.cut()
		if ctx.Err() != nil {
			return nil, fault.Of(ctx.Err())
		}
		var gone errGone
		if errors.As(err, &gone) {
			return nil, withDetail(ErrStatus, "the handshake was answered as if the link was over")
		}
		return nil, err
	}
	s, signed, keyset, err := handshake.finish(second, w.anchors(), w.SeenKeyset, w.every)
	if err != nil {
		p.cut()
		return nil, err
	}
	return newConn(p, s, signed, keyset, w.fragment()), nil
}

// orConn keeps a nil *tls.Conn from becoming a net.Conn that is not nil.
func orConn(c *tls.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// agentPoll is an agent's polled transport. See ServePoll.
type agentPoll struct {
	url, agent string
	id         string
	client     *http.Transport
	ctx        context.Context // the link's: ends with cut
	cancel     context.CancelFunc
	ups        uint64 // the sending side's
}

// errGone is a server's word that the session is over. It is not sealed: it ends this link and says nothing more.
type errGone struct{}

func (errGone) Error() string { return "the control plane does not know the link any more" }

// post makes one request and reads its answer whole.
func (p *agentPoll) post(ctx context.Context, lane string, sequence uint64, body []byte) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("User-Agent", p.agent)
	request.Header.Set("Content-Type", "application/octet-stream")
	if lane != "" {
		request.Header.Set(headerLink, p.id)
		request.Header.Set(headerLane, lane)
		request.Header.Set(headerSequence, strconv.FormatUint(sequence, 10))
	}
	answer, err := p.client.RoundTrip(request)
	if err != nil {
		var known *fault.Error
		if errors.As(err, &known) {
			return nil, nil, known
		}
		return nil, nil, withDetail(ErrTimeout, "the request was sent but not answered").
			WithHint("something on the way cuts connections").WithCause(err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusGone:
		return nil, nil, errGone{}
	default:
		return nil, nil, statusFault(ErrStatus, answer)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxBody+1))
	if err != nil {
		return nil, nil, ErrLost.WithCause(err)
	}
	if len(text) > maxBody {
		return nil, nil, ErrTampered
	}
	return text, answer.Header, nil
}

// persist repeats a request with the same sequence number until it is answered. What is refused for good is not
// repeated: the session is gone, or the answer was altered.
func (p *agentPoll) persist(ctx context.Context, lane string, sequence uint64, body []byte) ([]byte, error) {
	pause, begin := pollRetryFirst, time.Now()
	for {
		answer, _, err := p.post(ctx, lane, sequence, body)
		if err == nil || errors.As(err, new(errGone)) || isFault(err, ErrTampered) {
			return answer, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Since(begin)+pause > pollGiveUp {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		pause = min(2*pause, pollRetryLast)
	}
}

func (p *agentPoll) send(ctx context.Context, messages [][]byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	for len(messages) > 0 {
		var body []byte
		for len(messages) > 0 && len(body)+2+len(messages[0]) <= maxBody {
			body = appendMessage(body, messages[0])
			messages = messages[1:]
		}
		p.ups++
		if _, err := p.persist(ctx, laneUp, p.ups, body); err != nil {
			return ErrLost.WithCause(err)
		}
	}
	return nil
}

func (p *agentPoll) receive(c *Conn) *fault.Error {
	for sequence := uint64(1); ; sequence++ {
		body, err := p.persist(p.ctx, laneDown, sequence, nil)
		if isFault(err, ErrTampered) {
			return ErrTampered
		}
		if err != nil {
			return ErrLost.WithCause(err)
		}
		var reason *fault.Error
		if err := splitBody(body, func(m []byte) bool { reason = c.take(m); return reason == nil }); err != nil {
			return ErrTampered
		}
		if reason != nil {
			return reason
		}
	}
}

// leave needs no waiting: the last words were answered.
func (p *agentPoll) leave() { p.cut() }
func (p *agentPoll) drain() {}

func (p *agentPoll) cut() {
	p.cancel()
	p.client.CloseIdleConnections()
}

func (*agentPoll) transport() string { return Poll }
