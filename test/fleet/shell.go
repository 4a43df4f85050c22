package fleet

import (
	"context"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/wire"
)

// ShellOrder is the order of a shell that a simulated agent was given.
type ShellOrder struct {
	*pb.ShellOrder
	Dialer  wire.Dialer
	session *Session
}

// Dial makes a connection for the session's stream.
func (o ShellOrder) Dial(ctx context.Context) (stream.Conn, error) {
	return DialStream(ctx, o.Dialer, o.GetStream(), o.GetSession(), o.GetCredential())
}

// Answer says that the session begins, or why it does not.
func (o ShellOrder) Answer(ctx context.Context, err error) error {
	a := &pb.ShellAnswer{Session: o.GetSession()}
	if f := fault.Of(err); f != nil {
		a.Kind, a.Code, a.Message, a.Hint = string(f.Kind), f.Code, f.Message, f.Hint
	}
	return send(ctx, o.session.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_Shell{Shell: a}})
}
