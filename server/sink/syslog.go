package sink

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/loopbackd/loopback/sink"
)

// syslog sends RFC 5424 messages over TLS, framed by their length (RFC 5425). The protocol has no acknowledgement. The
// nearest thing to one: each batch has a connection of its own, which we close first; a receiver that read everything
// closes it too, and only then the batch counts as delivered. A receiver that dies before it wrote down what it read has
// lost that all the same.
type syslog struct {
	target string
	host   string // our name: the deployment
	tls    *tls.Config
	dial   Dial
}

func newSyslog(s sink.Sink, deployment string, dial Dial) (Sender, error) {
	t, err := trust(s)
	if err != nil {
		return nil, err
	}
	t.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	if t.ServerName, _, err = net.SplitHostPort(s.Target); err != nil {
		return nil, err
	}
	return &syslog{target: s.Target, host: deployment, tls: t, dial: dial}, nil
}

// goodbye is how long a receiver may take to close after us.
const goodbye = 10 * time.Second

func (s *syslog) Send(ctx context.Context, batch []Event) error {
	raw, err := s.dial(ctx, "tcp", s.target)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := tls.Client(raw, s.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	w := bufio.NewWriterSize(conn, 64<<10)
	for _, e := range batch {
		m := s.message(e)
		fmt.Fprintf(w, "%d ", len(m))
		if _, err := w.Write(m); err != nil {
			return fmt.Errorf("the receiver closed the connection: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("the receiver closed the connection: %w", err)
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if end := time.Now().Add(goodbye); ctx.Err() == nil {
		if d, ok := ctx.Deadline(); !ok || end.Before(d) {
			_ = conn.SetReadDeadline(end)
		}
	}
	switch _, err := io.Copy(io.Discard, conn); {
	case err == nil, errors.Is(err, io.ErrUnexpectedEOF): // closed, with or without a farewell of TLS
		return nil
	default:
		return fmt.Errorf("the receiver did not confirm what it read: %w", err)
	}
}

// facility 13 is "log audit" (RFC 5424, 6.2.1).
const (
	facility = 13
	notice   = 5
	warning  = 4
)

func (s *syslog) message(e Event) []byte {
	severity := notice
	if e.Refused {
		severity = warning
	}
	return append(fmt.Appendf(nil, `<%d>1 %s %s loopbackd - %s [loopback@32473 id="%s" position="%d"] `, facility*8+severity,
		e.At.UTC().Format("2006-01-02T15:04:05.000000Z"), field(s.host, 255), field(e.Action, 32), escaped(e.ID), e.Position), e.Body...)
}

// field is text as a field of the header has it: printable ASCII without spaces.
func field(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < 33 || r > 126 {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}

func escaped(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(s)
}

func (s *syslog) Close() error { return nil }
