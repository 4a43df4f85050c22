package link

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
)

// Task is something for a host to do once. Whoever gives one has it in the database first: a link carries it, and remembers
// nothing of it.
type Task struct {
	ID         string
	NotAfter   time.Time
	Grant      string
	Stream     string
	Credential []byte
	Prompt     bool // the host begins at once, and may answer on the link
	Exec       exec.Command
	File       []byte // file.Task as JSON, in place of a command
	Module     string // to restart, in place of a command
}

// OrderReport is a host's word on an order, as far as no stream says it.
type OrderReport struct {
	HostID   string
	ID       string
	State    string // refused, done, indeterminate, begun, ended
	Code     string
	Message  string
	Hint     string
	ExitCode int

	Stdout, Stderr, Result []byte // of one that ended
}

// maxOrders is how many may wait for one link.
const maxOrders = 1000

// Order has a host that is linked here told of an order. It does not wait, and tells whether there is such a link.
func (h *Hub) Order(hostID string, o Task) bool {
	known := h.Fleet.Lookup(hostID)
	if known == nil || standingOf(known) != standingManaged {
		return false
	}
	p := h.table.holder(hostID)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || !p.seated || p.aside.Load() || len(p.outbox.orders) >= maxOrders {
		return false
	}
	m := &pb.Order{Id: o.ID, NotAfter: timestamppb.New(o.NotAfter), Grant: o.Grant, Stream: o.Stream, Credential: o.Credential, Prompt: o.Prompt}
	switch {
	case o.File != nil:
		m.Task = &pb.Order_File{File: &pb.FileTask{Task: o.File}}
	case o.Module != "":
		m.Task = &pb.Order_Module{Module: &pb.ModuleTask{Module: o.Module}}
	default:
		m.Task = &pb.Order_Exec{Exec: &pb.ExecTask{
			Arguments: o.Exec.Arguments, Shell: o.Exec.Shell, User: o.Exec.User, Timeout: durationpb.New(o.Exec.Timeout), Stdin: len(o.Exec.Stdin) > 0,
		}}
	}
	p.outbox.orders = append(p.outbox.orders, &pb.ServerFrame{Body: &pb.ServerFrame_Order{Order: m}})
	p.schedule()
	return true
}

// Word tells a host of an order that it has: that its report is stored, or that the command is to end. It does not wait; a host
// whose link is not here, or is full, comes by the order's stream.
func (h *Hub) Word(hostID, orderID string, stored, cancel bool) {
	p := h.table.holder(hostID)
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || !p.seated || len(p.outbox.orders) >= maxOrders {
		return
	}
	p.outbox.orders = append(p.outbox.orders, &pb.ServerFrame{Body: &pb.ServerFrame_OrderWord{OrderWord: &pb.OrderWord{Id: orderID, Stored: stored, Cancel: cancel}}})
	p.schedule()
}

// Holds tells whether a host's link is here.
func (h *Hub) Holds(hostID string) bool { return h.table.holder(hostID) != nil }

// holder is the link of a host here; nil where there is none.
func (t *table) holder(id string) *peer {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.seats[id]; at != nil {
		return at.peer
	}
	return nil
}

// ordered hands on what became of an order.
func (p *peer) ordered(m *pb.OrderReport) {
	p.hub.Ordered(OrderReport{
		HostID: p.id, ID: clip(m.GetId()), State: clip(m.GetState()), Code: clip(m.GetDetail().GetCode()), Message: clip(m.GetMessage()),
		Hint: clip(m.GetDetail().GetHint()), ExitCode: int(m.GetExitCode()), Stdout: m.GetStdout(), Stderr: m.GetStderr(), Result: m.GetResult(),
	})
}
