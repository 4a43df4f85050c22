package link

import (
	"fmt"
	"slices"
	"sync"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
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

// troubles remembers what stood in the way, until there is somebody to tell.
type troubles struct {
	mu    sync.Mutex
	known []trouble // oldest first
}

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
		message := k.fault.Error()
		if len(message) > 512 {
			message = message[:512]
		}
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{
			Code: k.fault.Code, Message: validText(message), At: timestamp(k.at), Attempts: k.attempts,
		}}})
	}
	t.known = nil
	return out
}
