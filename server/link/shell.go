package link

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// ShellOrder is what a host needs to begin a shell.
type ShellOrder struct {
	Session    string
	Order      []byte
	Stream     string // to dial
	Credential []byte
}

// ShellWithin is how long a host may take to say whether it begins a shell.
const ShellWithin = 30 * time.Second

// ErrNotLinked says that a host was not told: its link is not here.
var ErrNotLinked = fault.New(fault.Unavailable, "host_not_linked", "the host is not linked to the control plane just now").WithHint("try again in a moment")

// shells are the orders that await an answer.
type shells struct {
	mu      sync.Mutex
	waiting map[string]chan *pb.ShellAnswer // by session; guarded by mu
}

// Shell gives a host an order, and returns once it has said that it begins the session, or why it does not. An error of kind Timeout
// means that it may have begun.
func (h *Hub) Shell(ctx context.Context, hostID string, o ShellOrder) error {
	var p *peer
	for _, one := range h.table.of(hostID, nil) {
		if !one.aside.Load() && !one.ended() {
			p = one
		}
	}
	if p == nil {
		return ErrNotLinked
	}
	answered := make(chan *pb.ShellAnswer, 1)
	h.shells.mu.Lock()
	if h.shells.waiting == nil {
		h.shells.waiting = map[string]chan *pb.ShellAnswer{}
	}
	h.shells.waiting[o.Session] = answered
	h.shells.mu.Unlock()
	defer func() {
		h.shells.mu.Lock()
		defer h.shells.mu.Unlock()
		delete(h.shells.waiting, o.Session)
	}()
	ctx, cancel := context.WithTimeout(ctx, ShellWithin)
	defer cancel()
	p.mu.Lock()
	p.outbox.shells = append(p.outbox.shells, &pb.ShellOrder{
		Session: o.Session, Order: o.Order, Stream: o.Stream, Credential: o.Credential, NotAfter: timestamppb.New(h.Clock().Add(ShellWithin)),
	})
	p.schedule()
	p.mu.Unlock()
	select {
	case a := <-answered:
		if a.GetCode() == "" {
			return nil
		}
		f := fault.New(fault.Kind(a.GetKind()), a.GetCode(), "%s", a.GetMessage())
		if a.GetHint() != "" {
			f = f.WithHint("%s", a.GetHint())
		}
		return f
	case <-ctx.Done():
		return fault.New(fault.Timeout, "shell_unanswered", "the host did not say whether it begins the session")
	}
}

// shell takes a host's answer. One that nobody waits for any more says nothing new: the session's stream does.
func (p *peer) shell(a *pb.ShellAnswer) {
	s := &p.hub.shells
	s.mu.Lock()
	defer s.mu.Unlock()
	if answered := s.waiting[a.GetSession()]; answered != nil {
		select {
		case answered <- a:
		default:
		}
	}
}
