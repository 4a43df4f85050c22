package link

import (
	"maps"
	"slices"
	"sync"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
)

// outbox holds what is to be said on the link. The newest word on a section replaces the one before, so it stays small
// whatever happens; a new link starts with an empty one, since its hello says everything.
type outbox struct {
	wake chan struct{} // holds one while there is something to say

	mu            *sync.Mutex
	reports       map[string]section.Status
	requests      map[string]section.Revision
	orders        *[]*pb.OrderReport
	wantInventory *bool
	wantHealth    *bool
	answers       *[]*pb.ShellAnswer
}

func newOutbox() outbox {
	return outbox{
		wake: make(chan struct{}, 1), mu: &sync.Mutex{}, reports: map[string]section.Status{},
		requests: map[string]section.Revision{}, orders: new([]*pb.OrderReport), wantInventory: new(bool), wantHealth: new(bool), answers: new([]*pb.ShellAnswer),
	}
}

func (o outbox) put(change func()) {
	o.mu.Lock()
	change()
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o outbox) inventory() { o.put(func() { *o.wantInventory = true }) }
func (o outbox) health()    { o.put(func() { *o.wantHealth = true }) }

func (o outbox) answer(a *pb.ShellAnswer) { o.put(func() { *o.answers = append(*o.answers, a) }) }

func (o outbox) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.reports)
	clear(o.requests)
	*o.orders = nil // who asks again is answered again
	*o.wantInventory, *o.wantHealth = false, false
	*o.answers = nil
	select {
	case <-o.wake:
	default:
	}
}

// drain is everything that is to be said, as frames; ongoing is what goes with the health of the modules.
func (o outbox) drain(h Host, ongoing func() []*pb.LinkTrouble) []*pb.AgentFrame {
	o.mu.Lock()
	reports, requests := maps.Clone(o.reports), maps.Clone(o.requests)
	inventory, health, orders := *o.wantInventory, *o.wantHealth, *o.orders
	*o.orders = nil
	clear(o.reports)
	clear(o.requests)
	*o.wantInventory, *o.wantHealth = false, false
	answers := *o.answers
	*o.answers = nil
	o.mu.Unlock()

	var out []*pb.AgentFrame
	for _, a := range answers {
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_Shell{Shell: a}})
	}
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_SectionReport{
			SectionReport: &pb.SectionReport{Section: heldOut(reports[name])}}})
	}
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_SectionRequest{
			SectionRequest: &pb.SectionRequest{Name: name, Held: revisionOut(requests[name])}}})
	}
	for _, r := range orders {
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_OrderReport{OrderReport: r}})
	}
	if inventory {
		i := h.Inventory()
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{
			Inventory: inventoryOut(i.Inventory), Ceiling: ceilingOut(i.Ceiling), Digest: i.Digest}}})
	}
	if health {
		r := &pb.HealthReport{Troubles: ongoing()}
		for _, m := range h.Health() {
			r.Modules = append(r.Modules, &pb.ModuleHealth{Module: m.Module, Healthy: m.Healthy, Message: validText(m.Message)})
		}
		out = append(out, &pb.AgentFrame{Body: &pb.AgentFrame_Health{Health: r}})
	}
	return out
}

// The following may be called at any time, from any goroutine, linked or not.

// Report tells the control plane how far a section has come.
func (c *Client) Report(s section.Status) {
	c.outbox.put(func() { c.outbox.reports[s.Name] = s })
}

// Request asks for a section whole. It is void when the link ends.
func (c *Client) Request(name string, held section.Revision) {
	c.outbox.put(func() { c.outbox.requests[name] = held })
}

// InventoryChanged makes the client send the inventory.
func (c *Client) InventoryChanged() { c.outbox.inventory() }

// HealthChanged makes the client send the health of the modules.
func (c *Client) HealthChanged() { c.outbox.health() }
