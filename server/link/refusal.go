package link

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// Why links are refused or ended, as agents are told.
var (
	errBusy = fault.New(fault.Unavailable, "too_busy", "the control plane takes no more for the moment").
		WithHint("nothing has to be done: the agent comes back by itself")
	errStopping = fault.New(fault.Unavailable, "server_stopping", "the control plane is stopping").
			WithHint("nothing has to be done: the agent comes back by itself")
	errRemoved = fault.New(fault.Denied, "host_removed", "this host was removed from the control plane").
			WithHint("to bring the machine back as a new host: loopback-agent uninstall --purge, then run the installer with a new token")
	errUnknown = fault.New(fault.NotFound, "host_unknown", "the control plane does not know this host").
			WithHint("if the control plane was restored from a backup older than this host, install the agent again with a new token")
	errIdentity = fault.New(fault.Unauthenticated, "identity_unknown", "the identity key is not this host's").
			WithHint("if the host's disk was copied or restored, install the agent again with a new token")
	errStaleKey = fault.New(fault.Unauthenticated, "identity_superseded", "this identity key was replaced by a newer one, whose holder was here lately").
			WithHint("two machines may be using copies of one disk: give each an identity of its own by installing the agent again")
	errSuperseded = fault.New(fault.Conflict, "link_superseded", "a newer link of the same host is here")
	errDropped    = fault.New(fault.Denied, "host_copy_dropped", "this machine holds a copy of another host's identity, and an operator shut it out").
			WithHint("to make it a host of its own: loopback-agent uninstall --purge, then run the installer with a new token")
	errUnanswered = fault.New(fault.Timeout, "challenge_unanswered", "the link did not prove in time that its agent is there")
	errAnswer     = fault.New(fault.Unauthenticated, "challenge_failed", "the answer to the challenge does not hold")
	errUnmanaged  = fault.New(fault.Precondition, "host_unmanaged", "this host has no agent enrolled")
	errSilent     = fault.New(fault.Timeout, "link_silent", "no heartbeat came in time")
	errUnsaid     = fault.New(fault.Timeout, "hello_missing", "the link did not say in time who it is")
	errMalformed  = fault.New(fault.Invalid, "frame_malformed", "a frame cannot be read")
	errUnexpected = fault.New(fault.Invalid, "frame_unexpected", "this frame does not belong here")
	errFlood      = fault.New(fault.Exhausted, "link_flooding", "the link brings more frames than an agent has reason to send")
)

// refusal ends a link by the control plane's will.
type refusal struct {
	why   *fault.Error
	final bool // the agent must not come back by itself
}

func (r refusal) frame() []byte {
	detail := &pb.ErrorDetail{Code: r.why.Code, Hint: r.why.Hint}
	for _, v := range r.why.Violations {
		detail.Violations = append(detail.Violations, &pb.FieldViolation{Field: v.Field, Message: v.Message})
	}
	if r.why.RetryAfter > 0 {
		detail.RetryAfter = durationpb.New(r.why.RetryAfter)
	}
	b, err := proto.Marshal(&pb.ServerFrame{Body: &pb.ServerFrame_Refusal{Refusal: &pb.Refusal{
		Detail: detail, Message: r.why.Message, Final: r.final,
	}}})
	if err != nil {
		// Only text that is not UTF-8 cannot be encoded, and only others' errors could hold such.
		return refusal{fault.New(fault.Internal, "internal", "internal error"), false}.frame()
	}
	return b
}

// refusalOf is what an enrolment's error means to the machine.
func refusalOf(err error) refusal {
	e := fault.Of(err)
	switch e.Kind {
	case fault.Internal:
		return refusal{fault.New(fault.Internal, "internal", "internal error of the control plane").WithRetryAfter(maxRetry / 2), false}
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.Precondition:
		return refusal{e, true}
	default:
		return refusal{e, false}
	}
}
