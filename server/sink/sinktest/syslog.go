package sinktest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// Syslog receives octet-counted messages over TLS (RFC 5425).
type Syslog struct {
	*Crate
	Complain func(format string, args ...any)
	Die      func() bool // asked after each message: cut the connection without a farewell, before it is kept
}

// Serve answers on a listener until stop.
func (s *Syslog) Serve(l net.Listener, cert tls.Certificate) (stop func()) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.serve(conn, cert) })
		}
	})
	return func() { l.Close(); all.Wait() }
}

func (s *Syslog) serve(raw net.Conn, cert tls.Certificate) {
	conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		size, err := r.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil || n > 8192 {
			s.Complain("a message of %q bytes", size)
			return
		}
		m := make([]byte, n)
		if _, err := io.ReadFull(r, m); err != nil {
			return
		}
		if s.Die() {
			if tcp, ok := raw.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			raw.Close()
			return
		}
		if !bytes.HasPrefix(m, []byte("<109>1 ")) {
			s.Complain("got %.60s", m)
		}
		_, body, _ := bytes.Cut(m, []byte("] "))
		if err := s.Take(body); err != nil {
			s.Complain("%v", err)
		}
	}
}
