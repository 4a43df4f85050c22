package rpc

import (
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// The zero time and the zero duration are unset on the wire, and the other way round.

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// fields reads what may be out of range on the wire, and collects what is.
type fields struct{ fault.Check }

func (f *fields) time(name string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	if err := t.CheckValid(); err != nil {
		f.Add(name, "is not a time between the years 1 and 9999")
		return time.Time{}
	}
	return t.AsTime()
}

// duration is how long; negative ones are never meant.
func (f *fields) duration(name string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if d.CheckValid() != nil || d.AsDuration() < 0 || d.GetSeconds() > int64(maxDuration/time.Second) {
		f.Add(name, "is not a duration between 0 and %d years", int(maxDuration/(365*24*time.Hour)))
		return 0
	}
	return d.AsDuration()
}

const maxDuration = 100 * 365 * 24 * time.Hour

func (f *fields) err() error { return f.Err("request_invalid", "the request is not valid") }

func scope(s access.Scope) *v1.Scope {
	return &v1.Scope{OrganisationId: s.Organisation, ProjectId: s.Project, WorkspaceId: s.Workspace}
}

func page(p *v1.Page) tenant.Page {
	return tenant.Page{Size: int(p.GetSize()), Token: p.GetToken()}
}

// answer is a method's answer, or its error. The message of a failed call was made from zero values and is dropped.
func answer[T any](m *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

// each converts a list; an empty one stays a list.
func each[F, T any](from []F, convert func(F) T) []T {
	out := make([]T, 0, len(from))
	for _, v := range from {
		out = append(out, convert(v))
	}
	return out
}

func texts[T ~string](from []T) []string { return each(from, func(v T) string { return string(v) }) }
