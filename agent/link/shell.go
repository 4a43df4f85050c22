package link

import (
	"context"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// ShellOrder is what the control plane orders: to begin a shell, or to drop what was recorded of one.
type ShellOrder struct {
	Session    string
	Order      []byte
	Stream     string // what to dial for it
	Credential []byte
	Endpoint   string // where the link is
}

// shell has a shell begun, beside the link, and answers when it is known whether it is.
func (s *session) shell(ctx context.Context, m *pb.ShellOrder) {
	o := ShellOrder{Session: m.GetSession(), Order: m.GetOrder(), Stream: m.GetStream(), Credential: m.GetCredential(), Endpoint: s.Status().Endpoint}
	begin := s.options.Shell
	standing := s.standing
	notAfter := m.GetNotAfter()
	go func() { // bounded: an order is a few calls of the service manager
		ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
		defer cancel()
		var err error
		switch {
		case begin == nil:
			err = fault.New(fault.Precondition, "shell_unknown", "this version of the agent begins no shells").WithHint("update the agent")
		case standing != Managed:
			err = fault.New(fault.Precondition, "shell_host_state", "the host is %s", standing)
		case notAfter.IsValid() && time.Now().After(notAfter.AsTime().Add(5*time.Minute)): // clocks differ
			err = fault.New(fault.Timeout, "shell_late", "the order came too late")
		default:
			err = begin(ctx, o)
		}
		a := &pb.ShellAnswer{Session: o.Session}
		if err != nil {
			f := fault.Of(err)
			a.Kind, a.Code, a.Message, a.Hint = string(f.Kind), f.Code, f.Error(), f.Hint
			s.log.Warn("an order of a shell is not carried out", "session", o.Session, "error", err)
		}
		s.outbox.answer(a)
	}()
}
