package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	noun "github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	hosts "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/operation"
	rules "github.com/loopbackd/loopback/server/access"
	"github.com/loopbackd/loopback/server/command"
	"github.com/loopbackd/loopback/server/enrol"
	"github.com/loopbackd/loopback/server/exec"
	"github.com/loopbackd/loopback/server/file"
	"github.com/loopbackd/loopback/server/fleet"
	"github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/link"
	runner "github.com/loopbackd/loopback/server/operation"
	policies "github.com/loopbackd/loopback/server/policy"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/stream"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/token"
)

// Slices do not know each other. What one needs of another is adapted here, where all of them are known.

// inForce is a store for slices whose writes are rules of who may do what: what was written is in force on this replica when Write
// returns, so that who takes something away, or is given it, need not wait to rely on that.
type inForce[R, T any] struct {
	storage.Store[R, T]
	rules *access.Policy
}

func ruling[R, T any](s *Server) inForce[R, T] {
	return inForce[R, T]{storage.Bind[R, T](s.db), s.policy}
}

func (s inForce[R, T]) Write(ctx context.Context, change func(T) error) error {
	var revision int64
	err := s.Store.Write(ctx, func(tx T) error {
		err := change(tx)
		revision = any(tx).(*storage.Tx).Revision()
		return err
	})
	return s.rules.Settled(ctx, revision, err)
}

// enroller gives the hub the enrolment slice.
type enroller struct{ service *enrol.Service }

var _ link.Enroller = enroller{}

func (e enroller) Enrol(ctx context.Context, r link.Enrolment) (link.Enrolled, error) {
	return enrolled(e.service.Enrol(ctx, request(r)))
}

func (e enroller) Split(ctx context.Context, from string, r link.Enrolment) (link.Enrolled, error) {
	return enrolled(e.service.Split(ctx, from, request(r)))
}

func request(r link.Enrolment) enrol.Request {
	return enrol.Request{
		Token: r.Token, Key: r.Key, HostName: r.HostName, AgentVersion: r.AgentVersion, Inventory: r.Inventory,
		Ceiling: r.Ceiling, Labels: r.Labels, From: r.From,
	}
}

func enrolled(h hosts.Host, err error) (link.Enrolled, error) {
	if err != nil {
		return link.Enrolled{}, err
	}
	return link.Enrolled{
		HostID: h.ID, HostName: h.Name, WorkspaceID: h.Scope.Workspace, State: h.State, Reason: h.StateReason, Channel: h.Channel,
	}, nil
}

// uses gives the enrolment slice the token slice.
type uses struct{ service *tokens.Service }

var _ enrol.Tokens = uses{}

func (u uses) Consume(ctx context.Context, tx enrol.Uses, presented token.Secret, from netip.Addr, hostName string, now time.Time) (token.Token, error) {
	return u.service.Consume(ctx, tx, presented, from, hostName, now)
}

func (u uses) Refused(ctx context.Context, presented token.Secret, from netip.Addr, hostName string, cause error) {
	u.service.Refused(ctx, presented, from, hostName, cause)
}

// places gives questions about access what bindings find their places by.
type places struct{ service *policies.Service }

var _ rules.Places = places{}

func (p places) Scope(ctx context.Context, organisation, project, workspace string, need access.Permission) (access.Scope, error) {
	return p.service.Scope(ctx, policies.Place{Organisation: organisation, Project: project, Workspace: workspace}, need)
}

// fleetHosts gives them the hosts.
type fleetHosts struct {
	*host.Service
	directory *fleet.Directory
}

var _ rules.Fleet = fleetHosts{}

func (f fleetHosts) Snapshot(within access.Scope) ([]*hosts.Host, int64) {
	return f.directory.Snapshot(within)
}

// presence gives the host slice the hub.
type presence struct{ hub *link.Hub }

var _ host.Presence = presence{}

func (p presence) Seen(hostID string) (at time.Time, uptime time.Duration, linked bool) {
	seen := p.hub.Presence(hostID)
	return seen.LastSeen, seen.Uptime, seen.Linked
}

// handlers are what operations are carried out by.
func handlers(work *host.Work, restarts *host.Restarts) map[operation.Kind]runner.Handler {
	return map[operation.Kind]runner.Handler{
		operation.QuarantineHost: func(ctx context.Context, t *runner.Task) error { return work.Quarantine(ctx, t) },
		operation.RemoveHost:     func(ctx context.Context, t *runner.Task) error { return work.Remove(ctx, t) },
		operation.RestartModule:  func(ctx context.Context, t *runner.Task) error { return restarts.Late(ctx, t) },
		operation.RevokeToken:    func(ctx context.Context, t *runner.Task) error { return work.RevokeToken(ctx, t) },
	}
}

// links give the commands the hub.
type links struct{ hub *link.Hub }

var _ exec.Links = links{}

func (l links) Online(hostID string) bool { return l.hub.Presence(hostID).Online }

func (l links) Holds(hostID string) bool { return l.hub.Holds(hostID) }

func (l links) Order(hostID string, o exec.Order) bool {
	return l.hub.Order(hostID, link.Task{ID: o.ID, NotAfter: o.NotAfter, Grant: o.Grant, Stream: o.Stream, Credential: o.Credential, Prompt: o.Prompt, Exec: o.Command})
}

func (l links) Word(hostID, orderID string, stored, cancel bool) {
	l.hub.Word(hostID, orderID, stored, cancel)
}

var _ host.RestartLinks = links{}

func (l links) RestartModule(hostID, order, grant, module string, notAfter time.Time) bool {
	return l.hub.Order(hostID, link.Task{ID: order, NotAfter: notAfter, Grant: grant, Module: module})
}

// runs have saved commands and checks run.
type runs struct{ *exec.Service }

var _ command.Runs = runs{}

func (r runs) StartAs(ctx context.Context, c noun.Command, by noun.Actor, t command.Target) (noun.Run, error) {
	return r.Start(ctx, exec.Request{Workspace: t.Workspace, Hosts: t.Hosts, Selector: t.Selector, All: t.All, Run: noun.Run{
		Command: c, Concurrency: t.Concurrency, MaxFailures: t.MaxFailures, Canary: t.Canary, RequestID: t.RequestID, Actor: by,
	}})
}

// streams give them the streams.
type streams struct{ *stream.Service }

var _ exec.Streams = streams{}

func (s streams) Expect(e exec.Session) (forget func()) {
	return s.Service.Expect(stream.Session{ID: e.ID, HostID: e.HostID, End: e.End, Authorise: e.Authorise})
}

// adopt has the commands take over streams of replicas that are gone.
func adopt(e *exec.Service) stream.Adopter {
	return func(ctx context.Context, id string) error {
		err := e.Adopt(ctx, id)
		if errors.Is(err, exec.ErrUnknown) {
			return stream.ErrUnknown
		}
		return err
	}
}

// fileLinks give the files the hub.
type fileLinks struct {
	links
	replica string
	streams *stream.Service
}

var _ file.Links = fileLinks{}

func (l fileLinks) Order(hostID string, o file.Order) bool {
	name := l.streams.Name(o.ID)
	if o.Replica != l.replica {
		name = o.ID + "." + shortName(o.Replica)
	}
	task, err := json.Marshal(o.Task)
	return err == nil && l.hub.Order(hostID, link.Task{ID: o.ID, NotAfter: o.NotAfter, Grant: o.Grant, Stream: name, Credential: o.Credential, File: task})
}

// fileStreams give them the streams.
type fileStreams struct{ *stream.Service }

var _ file.Streams = fileStreams{}

func (s fileStreams) Expect(e file.Session) (forget func()) {
	return s.Service.Expect(stream.Session{ID: e.ID, HostID: e.HostID, End: e.End, Authorise: e.Authorise})
}

// ordered hands a host's word on an order to whom it is about.
func (s *Server) ordered(r link.OrderReport) {
	why := fault.New(fault.Precondition, r.Code, "%s", r.Message)
	why.Hint = r.Hint
	switch {
	case strings.HasPrefix(r.ID, "fto_"):
		s.files.Reported(r.HostID, r.ID, why)
		return
	case strings.HasPrefix(r.ID, "op_"):
		s.restarts.Reported(host.RestartReport{HostID: r.HostID, OrderID: r.ID, State: r.State, Why: why, Result: r.Result})
		return
	}
	s.execs.Reported(exec.Report{
		HostID: r.HostID, OrderID: r.ID, State: r.State, ExitCode: r.ExitCode, Why: why, Stdout: r.Stdout, Stderr: r.Stderr, Result: r.Result,
	})
}
