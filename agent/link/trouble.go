package link

import (
	"fmt"
	"slices"
	"sync"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/wire"
)

// MaxSkew is the difference between the clocks that is said to be a trouble.
const MaxSkew = 2 * time.Minute

// ErrSkew says that the clocks differ by more than MaxSkew. The link does not mind; certificates and logs do.
var ErrSkew = fault.New(fault.Precondition, "clock_skew", "this host's clock differs from the control plane's").
	WithHint("turn time synchronisation on: timedatectl set-ntp true")

// ErrCertificateTime says that by this host's clock a certificate is not valid. A link is made all the same.
var ErrCertificateTime = wire.ErrClock

// refusal is the control plane's no, as an error. errors.Is(err, errFinal) where it is for good.
func refusal(r *pb.Refusal) error {
	d := r.GetDetail()
	code, message := d.GetCode(), r.GetMessage()
	if code == "" {
		code = "refused"
	}
	if message == "" {
		message = "the control plane refuses this host"
	}
	f := fault.New(kindOf(code, r.GetFinal()), code, "%s", message)
	f.Hint, f.RetryAfter = d.GetHint(), min(max(d.GetRetryAfter().AsDuration(), 0), MaxRetryAfter)
	for _, v := range d.GetViolations() {
		f.Violations = append(f.Violations, fault.Violation{Field: v.GetField(), Message: v.GetMessage()})
	}
	if r.GetFinal() {
		return fmt.Errorf("%w: %w", errFinal, f)
	}
	return f
}

// kindOf gives back the kind, which does not travel, to the refusals that a person answers by doing something.
func kindOf(code string, final bool) fault.Kind {
	for _, known := range []*fault.Error{
		token.ErrMalformed, token.ErrUnknown, token.ErrExpired, token.ErrExhausted, token.ErrRevoked, token.ErrNetwork, token.ErrHostName,
	} {
		if known.Code == code {
			return known.Kind
		}
	}
	if final {
		return fault.Denied
	}
	return fault.Unavailable
}

// maxTroubles that are remembered, by code.
const maxTroubles = 16

// troubles remembers what stood in the way, until there is somebody to tell; and what stands in it now.
type troubles struct {
	mu    sync.Mutex
	known []trouble // oldest first

	ofHost []host.Trouble // as the agent found it
	ofLink []host.Trouble // of the link that stands, or stood last
}

// Troubled tells what stands in this host's way now, beside what the link finds itself: all of it, every time. It may be
// called at any time, from any goroutine.
func (c *Client) Troubled(now []host.Trouble) {
	t := &c.troubles
	t.mu.Lock()
	same := slices.EqualFunc(t.ofHost, now, func(a, b host.Trouble) bool { return a.Code == b.Code })
	t.ofHost = slices.Clone(now)
	t.mu.Unlock()
	if !same {
		c.outbox.health()
	}
}

// flaws notes what is wrong with a link although it stands.
func (s *session) flaws(skew time.Duration, now time.Time) {
	var wrong []host.Trouble
	if f := s.conn.Fallback(); f != nil {
		wrong = append(wrong, host.Trouble{Code: fault.Of(f).Code, Message: fault.Of(f).Error(), At: now})
	}
	if by := fault.Roughly(skew); skew.Abs() > MaxSkew {
		wrong = append(wrong, host.Trouble{Code: ErrSkew.Code, Message: fmt.Sprintf("%s by %s", ErrSkew.Message, fault.Roughly(skew.Abs())), At: now})
		s.log.Warn("the clocks of this host and of the control plane differ", "by", by)
		s.troubles.note(ErrSkew.WithCause(fmt.Errorf("the control plane is ahead by %s", by)), now)
	}
	s.troubles.mu.Lock()
	s.troubles.ofLink = wrong
	s.troubles.mu.Unlock()
}

// ongoing is all that stands in the way now.
func (t *troubles) ongoing() (out []*pb.LinkTrouble) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, list := range [][]host.Trouble{t.ofHost, t.ofLink} {
		for _, one := range list {
			out = append(out, &pb.LinkTrouble{Code: one.Code, Message: validText(short(one.Message)), At: timestamp(one.At), Attempts: one.Attempts})
		}
	}
	return out
}

// short bounds a message.
func short(message string) string { return message[:min(len(message), 512)] }

type trouble struct {
	fault    *fault.Error
	at       time.Time // the last time
	attempts int64
}

func (t *troubles) note(f *fault.Error, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.known, func(k trouble) bool { return k.fault.Code == f.Code })
	if i < 0 {
		if len(t.known) == maxTroubles {
			t.known = t.known[1:]
		}
		t.known = append(t.known, trouble{})
		i = len(t.known) - 1
	}
	t.known[i] = trouble{f, at, t.known[i].attempts + 1}
}

// drain is all of them as frames. They are forgotten: a trouble whose report is lost with the link is not worth more.
func (t *troubles) drain() []*pb.AgentFrame {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*pb.AgentFrame
	for _, k := range t.known {
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{
			Code: k.fault.Code, Message: validText(short(k.fault.Error())), At: timestamp(k.at), Attempts: k.attempts,
		}}})
	}
	t.known = nil
	return out
}
