package rpc

import (
	"errors"
	"math"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

// encode makes an error fit for the wire: kind as code, message, and the rest as ErrorDetail. A cause never leaves.
func encode(err error, requestID string) *connect.Error {
	var already *connect.Error
	if errors.As(err, &already) && fault.Of(err).Kind == fault.Internal {
		return already // of the protocol itself: unimplemented, a broken stream
	}
	f := fault.Of(err)
	var code connect.Code
	if code.UnmarshalText([]byte(f.Kind)) != nil {
		code = connect.CodeInternal
	}
	message := f.Message
	if f.Kind == fault.Internal {
		message = "internal error"
	}
	out := connect.NewError(code, errors.New(message))
	detail := &v1.ErrorDetail{Code: f.Code, Hint: f.Hint, RequestId: requestID}
	if f.Kind == fault.Internal && f.Hint == "" {
		detail.Hint = "the control plane's log has the rest under request " + requestID
	}
	for _, v := range f.Violations {
		detail.Violations = append(detail.Violations, &v1.FieldViolation{Field: v.Field, Message: v.Message})
	}
	if f.RetryAfter > 0 {
		detail.RetryAfter = durationpb.New(f.RetryAfter)
		// For proxies and clients that know HTTP only, in its whole seconds (RFC 9110, 10.2.3).
		out.Meta().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(f.RetryAfter.Seconds())), 10))
	}
	if d, err := connect.NewErrorDetail(detail); err == nil {
		out.AddDetail(d)
	}
	return out
}
