package link

import (
	"context"
	"crypto/rand"
	"crypto/tls"

	"google.golang.org/protobuf/proto"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/state"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/wire"
)

// StreamDialer dials the connections of one session by the ways that the control link knows. All connections of a session's
// End on this host have the same Instance, which NewStreamDialer makes.
type StreamDialer struct {
	Config     config.Config
	Trust      state.Trust
	Name       string // as the control plane gave it
	ID         string
	Credential []byte
	Instance   [16]byte
	Sessions   tls.ClientSessionCache // of the outer TLS

	first int // the endpoint that took the last one
}

// NewStreamDialer makes the dialer of a session whose End begins now. first is the endpoint to try before the others, where
// the link is; it may be empty.
func NewStreamDialer(c config.Config, t state.Trust, first, name, id string, credential []byte) *StreamDialer {
	d := &StreamDialer{Config: c, Trust: t, Name: name, ID: id, Credential: credential, Sessions: tls.NewLRUClientSessionCache(endpointSessions)}
	_, _ = rand.Read(d.Instance[:]) // never fails
	for i, e := range c.Endpoints {
		if e == first {
			d.first = i
		}
	}
	return d
}

// Dial makes a connection and opens the session on it, at the endpoint that took the last one before the others. It is for
// stream.End.Keep. An error of kind Denied, NotFound or Precondition is the control plane's word that the session is over.
func (d *StreamDialer) Dial(ctx context.Context) (stream.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var failed error
	for i := range d.Config.Endpoints {
		at := (d.first + i) % len(d.Config.Endpoints)
		conn, err := d.dial(ctx, d.Config.Endpoints[at])
		if err == nil {
			d.first = at
			return conn, nil
		}
		failed = err
		if isOver(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// isOver tells whether the control plane itself has said that there is no session. What a proxy or a wrong endpoint answers is no such
// word.
func isOver(err error) bool {
	k := fault.KindOf(err)
	return k == fault.Denied || k == fault.NotFound || k == fault.Precondition
}

func (d *StreamDialer) dial(ctx context.Context, endpoint string) (*wire.Conn, error) {
	dialer, err := dialler(d.Config, endpoint, d.Trust.Anchors, d.Trust.Version)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "stream_undialled", "the stream cannot be dialled").WithCause(err)
	}
	dialer.Stream, dialer.TLS.ClientSessionCache = d.Name, d.Sessions
	conn, err := dialer.Dial(ctx)
	if err != nil {
		if isOver(err) {
			return nil, fault.New(fault.Unavailable, "stream_undialled", "the stream cannot be dialled").WithCause(err)
		}
		return nil, err
	}
	if err := d.open(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (d *StreamDialer) open(ctx context.Context, conn *wire.Conn) error {
	open, err := proto.Marshal(&pb.StreamOpen{Id: d.ID, Credential: d.Credential, Instance: d.Instance[:]})
	if err != nil {
		return err
	}
	if err := conn.Send(ctx, open); err != nil {
		return err
	}
	answer, err := conn.Receive(ctx)
	if err != nil {
		return err
	}
	return proto.Unmarshal(answer, &pb.StreamOpened{})
}
