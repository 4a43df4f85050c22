package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/wire"
)

// Order is one that a simulated agent was given.
type Order struct {
	*pb.Order
	dialer  wire.Dialer
	session *Session
}

// Dial makes a connection for the order's stream.
func (o Order) Dial(ctx context.Context) (stream.Conn, error) {
	return DialStream(ctx, o.dialer, o.GetStream(), o.GetId(), o.GetCredential())
}

// DialStream makes a connection for a stream of this name.
func DialStream(ctx context.Context, d wire.Dialer, name, id string, credential []byte) (stream.Conn, error) {
	d.Stream = name
	c, err := d.Dial(ctx)
	if err != nil {
		return nil, err
	}
	open, err := proto.Marshal(&pb.StreamOpen{Id: id, Credential: credential, Instance: []byte(id)[len(id)-16:]})
	if err == nil {
		err = c.Send(ctx, open)
	}
	if err == nil {
		_, err = c.Receive(ctx)
	}
	if err != nil {
		_ = c.Close() // the error is the one that is known
		return nil, err
	}
	return c, nil
}

// Report answers an order on the control link.
func (o Order) Report(ctx context.Context, r *pb.OrderReport) error {
	r.Id = o.GetId()
	return send(ctx, o.session.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_OrderReport{OrderReport: r}})
}

// Say is a machine that writes this for every command and ends with this code.
func Say(text string, code int) func(context.Context, Order) {
	return func(ctx context.Context, o Order) {
		result, _ := json.Marshal(exec.Result{ExitCode: code}) // plain fields
		if o.GetPrompt() {
			_ = o.Report(ctx, &pb.OrderReport{State: "ended", Stdout: []byte(text), Result: result}) // whoever waits for it sees that it fails
			return
		}
		e := stream.New(stream.Options{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = e.Keep(ctx, time.Minute, o.Dial) // whoever waits for the answer sees that it fails
		}()
		defer func() { e.Close(nil); <-ended }()
		if _, err := bufio.NewReader(e.Reader(exec.ControlNumber)).ReadBytes('\n'); err != nil {
			return
		}
		_, _ = e.Writer(exec.StdoutNumber).Write([]byte(text))
		_ = e.Writer(exec.StdoutNumber).Close()
		_ = e.Writer(exec.StderrNumber).Close()
		_, _ = e.Writer(exec.ControlNumber).Write(append(result, '\n'))
		_ = e.Writer(exec.ControlNumber).Close()
		_ = e.Flush(ctx)
	}
}

// Hang is a machine whose command never ends.
func Hang(ctx context.Context, o Order) {
	e := stream.New(stream.Options{})
	_ = e.Keep(ctx, time.Minute, o.Dial)
}
