package link

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/stream"
)

// Order is something that the host is to do once.
type Order struct {
	ID       string
	NotAfter time.Time // by Client.Now
	Grant    string
	Exec     exec.Command
	Stdin    bool
	File     *file.Task                                 // in place of a command
	Module   string                                     // that is to be restarted, in place of a command
	Prompt   bool                                       // it is begun at once, and may be answered on the link
	Dial     func(context.Context) (stream.Conn, error) // of its stream

	// The same for another process.
	Stream     string
	Credential []byte
	Endpoint   string
}

// clock is the control plane's, as it was when it was last heard.
type clock struct{ theirs, ours time.Time }

// Now is what the control plane's clock shows by now. Between two links it goes on by itself: setting this host's clock does
// not move it.
func (c *Client) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clock.theirs.IsZero() {
		return time.Now()
	}
	return c.clock.theirs.Add(time.Since(c.clock.ours))
}

func (c *Client) setClock(t *timestamppb.Timestamp) {
	if !t.IsValid() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock = clock{t.AsTime(), time.Now()}
}

// order hands an order to the host. Tasks of a newer control plane are refused.
func (s *session) order(m *pb.Order) {
	task := m.GetExec()
	var moved *file.Task
	if f := m.GetFile(); f != nil {
		moved = new(file.Task)
		if json.Unmarshal(f.GetTask(), moved) != nil {
			moved = nil
		}
	}
	switch {
	case s.standing != Managed:
		s.OrderRefused(m.GetId(), errStanding)
		return
	case moved == nil && len(task.GetArguments()) == 0 && m.GetModule().GetModule() == "", !m.GetNotAfter().IsValid():
		s.OrderRefused(m.GetId(), errTask)
		return
	}
	s.mu.Lock()
	known := s.trusting
	s.mu.Unlock()
	dialer := NewStreamDialer(s.options.Config, known, s.Status().Endpoint, m.GetStream(), m.GetId(), m.GetCredential())
	dialer.Sessions = s.sessions // each order has a dialer of its own, and a full handshake costs more than most commands
	s.options.Host.Order(Order{
		ID: m.GetId(), NotAfter: m.GetNotAfter().AsTime(), Grant: m.GetGrant(), Stdin: task.GetStdin(), Prompt: m.GetPrompt(), Dial: dialer.Dial,
		File: moved, Module: m.GetModule().GetModule(), Stream: m.GetStream(), Credential: m.GetCredential(), Endpoint: s.Status().Endpoint,
		Exec: exec.Command{Arguments: task.GetArguments(), Shell: task.GetShell(), User: task.GetUser(), Timeout: task.GetTimeout().AsDuration()},
	})
}

// Refusals of the agent's link.
var (
	errStanding = fault.New(fault.Precondition, "host_not_managed", "the host is not managed, and takes no orders")
	errTask     = fault.New(fault.Precondition, "order_unknown", "the host's agent does not know this kind of order").
			WithHint("update the agent")
)

// OrderRefused tells the control plane that an order was refused, and why.
func (c *Client) OrderRefused(id string, why *fault.Error) {
	c.reportOrder(&pb.OrderReport{Id: id, State: "refused", Message: validText(why.Message), Detail: &pb.ErrorDetail{Code: why.Code, Hint: why.Hint}})
}

// OrderKnown tells the control plane what the journal says of an order: done, with its exit code, or indeterminate.
func (c *Client) OrderKnown(id, state string, exitCode int) {
	c.reportOrder(&pb.OrderReport{Id: id, State: state, ExitCode: int32(exitCode)})
}

// OrderBegun tells the control plane that a prompt order, or a restart, was begun and takes its time.
func (c *Client) OrderBegun(id string) { c.reportOrder(&pb.OrderReport{Id: id, State: "begun"}) }

// OrderEnded tells the control plane how a prompt order ended (exec.Result), and all that its command wrote, or a restart (host.Restart).
// Word says when that is stored.
func (c *Client) OrderEnded(id string, stdout, stderr []byte, how any) {
	result, _ := json.Marshal(how) // plain fields
	c.reportOrder(&pb.OrderReport{Id: id, State: "ended", Stdout: stdout, Stderr: stderr, Result: result})
}

func (c *Client) reportOrder(r *pb.OrderReport) {
	c.outbox.put(func() { *c.outbox.orders = append(*c.outbox.orders, r) })
}
