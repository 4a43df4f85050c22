package wire

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/fault"
)

// How links end. See the package comment.
var (
	ErrTampered = fault.New(fault.Unauthenticated, "link_tampered", "a message of the link was changed, repeated, left out or forged").
			WithHint("something between this host and the control plane interferes; look for proxies that inspect traffic")
	ErrMalformed = fault.New(fault.Invalid, "link_malformed", "the peer broke the link's protocol")
	ErrTooLarge  = fault.New(fault.Invalid, "envelope_too_large", "an envelope may hold at most %d bytes", MaxEnvelope)
	ErrIdle      = fault.New(fault.Timeout, "link_idle", "nothing was heard from the peer in time")
	ErrSlow      = fault.New(fault.Unavailable, "link_slow", "the peer does not take what is sent to it")
	ErrLost      = fault.New(fault.Unavailable, "link_lost", "the connection was lost")
	ErrClosed    = fault.New(fault.Canceled, "link_closed", "the link was closed")
	ErrStopping  = fault.New(fault.Unavailable, "server_stopping", "the control plane is stopping").
			WithHint("another replica, or the same one once it is back, takes over")
	ErrTooBusy = fault.New(fault.Unavailable, "too_busy", "the control plane takes no more links for the moment")
)

// maxReason bounds the last word on a link.
const maxReason = 512

// encodeReason is a fault as it travels in a link's last sealed message: kind, code, retry in milliseconds and message,
// with NULs between them. Causes and hints stay at home.
func encodeReason(reason error) []byte {
	e := ErrClosed
	if reason != nil {
		e = fault.Of(reason)
	}
	message := e.Message
	if len(message) > maxReason/2 {
		message = strings.ToValidUTF8(message[:maxReason/2], "")
	}
	return []byte(string(e.Kind) + "\x00" + e.Code + "\x00" + strconv.FormatInt(e.RetryAfter.Milliseconds(), 10) + "\x00" + message)
}

// decodeReason reads the peer's last word. What cannot be read is ErrMalformed; it ends the link all the same.
func decodeReason(b []byte) *fault.Error {
	parts := strings.SplitN(string(b), "\x00", 4)
	if len(b) > maxReason || len(parts) != 4 || !utf8.Valid(b) {
		return ErrMalformed
	}
	kind := fault.Kind(parts[0])
	switch kind {
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Exists, fault.Conflict,
		fault.Precondition, fault.Exhausted, fault.Unavailable, fault.Timeout, fault.Canceled, fault.Internal:
	default:
		return ErrMalformed
	}
	code := parts[1]
	if code == "" || len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return ErrMalformed
	}
	retry, err := strconv.ParseUint(parts[2], 10, 40)
	if err != nil {
		return ErrMalformed
	}
	return fault.New(kind, code, "%s", printable(parts[3])).WithRetryAfter(time.Duration(retry) * time.Millisecond)
}

// printable makes text of strangers fit for one line of a log or terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0x2028 || r == 0x2029 || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}

// ending says why a carrier's read failed. Whatever is not a network's doing is somebody's: a WebSocket frame or a TLS
// record that is not what an honest peer sends.
func ending(err error) *fault.Error {
	var network net.Error
	var operation *net.OpError
	switch {
	case err == nil:
		return ErrLost
	case errors.As(err, &operation) && operation.Op == "local error":
		// Our own TLS refused a record: it did not authenticate.
		return ErrTampered.WithCause(err)
	case errors.As(err, &network) && network.Timeout():
		return ErrIdle
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return ErrLost.WithCause(err)
	default:
		return ErrTampered.WithCause(err)
	}
}
