package rpc

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/server/limit"
)

// RequestID is the header that names a request, in both directions. A caller's own is kept where it is fit for a log.
const RequestID = "X-Request-Id"

// Authenticator tells who presents a credential.
type Authenticator interface {
	// Authenticate is the actor whose credential this is ("lbk_…"). Errors are *fault.Error of kind Unauthenticated.
	Authenticate(ctx context.Context, credential string, from netip.Addr) (access.Actor, error)
}

// timeouts of the methods that have a bound of their own, beyond what waiting they themselves are asked for. Streams
// have none: their callers end them.
var timeouts = map[string]time.Duration{
	loopbackv1connect.OperationServiceWaitOperationProcedure: 11 * time.Minute,
	loopbackv1connect.GrantServiceWaitGrantProcedure:         11 * time.Minute,
	loopbackv1connect.ReleaseServiceUploadArtefactProcedure:  2 * time.Minute,
	loopbackv1connect.ReleaseServicePublishReleaseProcedure:  2 * time.Minute,
}

type edge struct {
	authenticate Authenticator
	options      Options
	permissions  map[string]access.Permission
}

type originKey struct{}

// origin is what is known of a request before anybody looked into it.
type origin struct {
	requestID string
	address   netip.Addr
	began     time.Time
	end       func() // gives back the place that gate took; nil before
}

func originFrom(ctx context.Context) *origin {
	if o, ok := ctx.Value(originKey{}).(*origin); ok {
		return o
	}
	return &origin{}
}

var fitRequestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

// identify gives the request its id and notes where it came from.
func (e *edge) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o := &origin{requestID: r.Header.Get(RequestID), address: e.options.Address(r), began: time.Now()}
		if !fitRequestID.MatchString(o.requestID) {
			o.requestID = id.New("req", o.began)
		}
		w.Header().Set(RequestID, o.requestID)
		w.Header().Set("Cache-Control", "no-store")
		// Wherever the call ends, a message that cannot be read included, its place is free again.
		defer func() {
			if o.end != nil {
				o.end()
			}
		}()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), originKey{}, o)))
	})
}

// lasting are the methods that go on for as long as their callers like, besides all streams.
func lasting(spec connect.Spec) bool {
	return spec.StreamType != connect.StreamTypeUnary || spec.Procedure == loopbackv1connect.OperationServiceWaitOperationProcedure ||
		spec.Procedure == loopbackv1connect.GrantServiceWaitGrantProcedure
}

// gate turns callers away before their message is read: who calls too much, who is not signed in, and who holds the
// method's permission nowhere.
func (e *edge) gate(ctx context.Context, spec connect.Spec, _ connect.Peer, header http.Header) (context.Context, error) {
	actor, err := e.who(ctx, spec, header)
	if err != nil {
		return nil, e.end(ctx, spec, err)
	}
	o := originFrom(ctx)
	caller := string(actor.Kind) + " " + actor.ID
	if actor.Kind == access.Anonymous {
		caller += limit.Source(o.address).String()
	}
	if o.end, err = e.options.Limits.Begin(ctx, caller, lasting(spec)); err != nil {
		return nil, e.end(ctx, spec, err)
	}
	return access.WithActor(ctx, actor), nil
}

// presented is the credential that a caller sends, and the scheme that they call it (RFC 9110, 11.6.2); both are empty where there is
// none.
func presented(header http.Header) (scheme, credential string) {
	scheme, credential, _ = strings.Cut(header.Get("Authorization"), " ")
	return scheme, strings.TrimSpace(credential)
}

// who calls, if they may call this method anywhere.
func (e *edge) who(ctx context.Context, spec connect.Spec, header http.Header) (actor access.Actor, err error) {
	o, limits := originFrom(ctx), e.options.Limits
	actor = access.Actor{Kind: access.Anonymous}
	need := e.permissions[spec.Procedure]
	scheme, credential := presented(header)
	if err := limits.Admit(o.address, credential); err != nil {
		return actor, err
	}
	// Who signs in or redeems the bootstrap code may well send a dead credential from an earlier life.
	if scheme != "" && !access.Everybody(need) {
		if !strings.EqualFold(scheme, "Bearer") {
			limits.Charge(o.address)
			return actor, fault.New(fault.Unauthenticated, "not_signed_in", "the authorization scheme is not Bearer").
				WithHint("send the API key as: Authorization: Bearer lbk_…")
		}
		if actor, err = e.authenticate.Authenticate(ctx, credential, o.address); err != nil {
			if fault.KindOf(err) == fault.Unauthenticated { // a database that is away is not the caller's doing
				limits.Charge(o.address)
			}
			return actor, err
		}
		limits.Proven(credential)
	} else {
		limits.Charge(o.address)
	}
	actor.RequestID = o.requestID
	if o.address.IsValid() {
		actor.Address = o.address.String()
	}
	if actor.Reason, actor.Ticket, err = why(header); err != nil {
		return actor, err
	}
	switch {
	case need == "":
		return actor, fault.New(fault.Internal, "internal", "the method has no permission")
	case !actor.Touches(need):
		return actor, actor.Refused(need)
	case actor.StepUp(need) == nil:
		return actor, nil
	}
	// The passkey may have been shown a moment ago, to another replica.
	now, err := e.authenticate.Authenticate(access.Anew(ctx), credential, o.address)
	if err != nil {
		return actor, err
	}
	actor.MFA = now.MFA
	return actor, actor.StepUp(need)
}

// why is the reason and the ticket that a caller gives.
func why(header http.Header) (reason, ticket string, err error) {
	var c fault.Check
	read := func(name string, longest int) string {
		sent := header.Values(name)
		if len(sent) == 0 {
			return ""
		}
		text, err := url.PathUnescape(sent[0])
		text = strings.TrimSpace(text)
		switch {
		case len(sent) > 1:
			c.Add(name, "is given %d times", len(sent))
		case err != nil:
			c.Add(name, "is not percent-encoded where it has a %%: write %%25")
		case len(text) > longest:
			c.Add(name, "is %d bytes long; at most %d are allowed", len(text), longest)
		case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
			c.Add(name, "is not printable UTF-8 in one line")
		}
		return text
	}
	reason, ticket = read(access.ReasonHeader, access.MaxReason), read(access.TicketHeader, access.MaxTicket)
	return reason, ticket, c.Err("reason_invalid", "the reason or the ticket is not valid")
}

// end is the last that happens in a call: it is counted, and its error made fit for the wire.
func (e *edge) end(ctx context.Context, spec connect.Spec, err error) error {
	o := originFrom(ctx)
	call := Call{Procedure: spec.Procedure, Code: "ok", Duration: time.Since(o.began)}
	var out *connect.Error
	if err != nil {
		out = encode(err, o.requestID)
		call.Code = out.Code().String()
	}
	e.options.Observe(call)
	e.options.Logger.DebugContext(ctx, "call", "procedure", spec.Procedure, "code", call.Code, "took", call.Duration,
		"request", o.requestID, "address", o.address)
	if err == nil {
		return nil
	}
	if f := fault.Of(err); out.Code() == connect.CodeInternal {
		e.options.Logger.ErrorContext(ctx, "a call failed for a reason of ours", "procedure", spec.Procedure,
			"request", o.requestID, "error", f.Error())
	}
	return out
}

// recovered is the error of a call that panicked.
func (e *edge) recovered(ctx context.Context, spec connect.Spec, what any) error {
	o := originFrom(ctx)
	e.options.Logger.ErrorContext(ctx, "a call panicked", "procedure", spec.Procedure, "request", o.requestID,
		"panic", what, "stack", string(debug.Stack()))
	return fault.New(fault.Internal, "internal", "internal error")
}

// WrapUnary implements connect.Interceptor.
func (e *edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		d, ok := timeouts[req.Spec().Procedure]
		if !ok {
			d = e.options.Timeout
		}
		bounded, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		if lasting(req.Spec()) {
			var end context.CancelFunc
			bounded, end = e.untilStopping(bounded)
			defer end()
			bounded, end = e.untilRefused(bounded, req.Spec(), req.Header())
			defer end()
		}
		bounded, span := e.span(bounded, req.Spec(), req.Header())
		defer func() { finish(span, err) }()
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				res, err = nil, e.recovered(ctx, req.Spec(), p)
			}
			if err = e.end(ctx, req.Spec(), err); err != nil {
				res = nil
			}
		}()
		if err := bound(req.Any()); err != nil {
			return nil, err
		}
		res, err = next(bounded, req)
		return res, stopped(bounded, err)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (e *edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				err = e.recovered(ctx, conn.Spec(), p)
			}
			err = e.end(ctx, conn.Spec(), err)
		}()
		lasting, cancel := e.untilStopping(ctx)
		defer cancel()
		lasting, end := e.untilRefused(lasting, conn.Spec(), conn.RequestHeader())
		defer end()
		lasting, span := e.span(lasting, conn.Spec(), conn.RequestHeader())
		defer func() { finish(span, err) }()
		return stopped(lasting, next(lasting, boundConn{conn}))
	}
}

// askAgain is how often callers whose call goes on are asked again though no rule changed: by then a key or a sign-in may
// have expired.
const askAgain = 30 * time.Second

// untilRefused is ctx until the caller may not call the method any more: whenever the rules changed, and now and then, they
// are asked again, as at the start.
func (e *edge) untilRefused(ctx context.Context, spec connect.Spec, header http.Header) (context.Context, context.CancelFunc) {
	actor := access.ActorFrom(ctx)
	changed := actor.Changed()
	if changed == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(askAgain)
		defer tick.Stop()
		for {
			select {
			case <-changed:
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			changed = actor.Changed() // before asking: what changes meanwhile is seen next time
			if err := e.again(ctx, spec, header); err != nil {
				cancel(refusal{err})
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-ended }
}

// againTimeout is how long a stream goes on whose caller cannot be asked after.
const againTimeout = 5 * time.Second

// again tells whether a caller whose call goes on may still call.
func (e *edge) again(ctx context.Context, spec connect.Spec, header http.Header) error {
	was := access.ActorFrom(ctx)
	// Where changes do not reach this replica, its database may be one that hangs: nothing is asked of it then, and at no
	// other time for long.
	if was.Policy != nil && was.Policy.Closed() {
		return access.ErrClosed
	}
	_, credential := presented(header)
	asking, cancel := context.WithTimeout(ctx, againTimeout)
	defer cancel()
	actor, err := e.authenticate.Authenticate(access.AskedAgain(asking), credential, originFrom(ctx).address)
	if err != nil {
		return err
	}
	actor.Address, actor.Reason, actor.Ticket = was.Address, was.Reason, was.Ticket
	if need := e.permissions[spec.Procedure]; !actor.Touches(need) {
		return actor.Refused(need)
	}
	return nil
}

// refusal is why a call that was under way was ended.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// errStopping ends calls that would keep us from stopping. It is Unavailable: callers come back, to whoever is there.
var errStopping = fault.New(fault.Unavailable, "stopping", "the control plane is stopping").WithHint("try again in a moment")

// untilStopping is ctx until the server is about to stop.
func (e *edge) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if e.options.Stopping == nil {
		return ctx, func() { cancel(nil) }
	}
	forget := context.AfterFunc(e.options.Stopping, func() { cancel(errStopping) }) // and no goroutine for each of thousands of streams
	return ctx, func() { forget(); cancel(nil) }
}

// stopped is err, or that we are stopping or that the caller may not go on, where that is what ended the call.
func stopped(ctx context.Context, err error) error {
	var r refusal
	if err != nil && errors.As(context.Cause(ctx), &r) {
		return r.error
	}
	if err != nil && errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

// WrapStreamingClient implements connect.Interceptor; there are no clients here.
func (e *edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// unknown answers a path that is no method.
func (e *edge) unknown(w http.ResponseWriter, r *http.Request) {
	o := originFrom(r.Context())
	err := fault.New(fault.NotFound, "method_unknown", "there is no such method").
		WithHint("the methods are listed at /api/docs")
	// The answer is as good as it gets for a caller that is already gone.
	_ = connect.NewErrorWriter().Write(w, r, encode(err, o.requestID))
}
