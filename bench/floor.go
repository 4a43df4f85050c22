package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
)

// Floors of a link: what a connection comes to that can do nothing but carry messages. See also serveEcho.

// serveRaw echoes messages behind their length over TLS, a goroutine for each connection: there is no less.
func serveRaw() error {
	certificate, err := rivalCertificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			go echoRaw(c)
		}
	}()
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	_ = l.Close()
	if e := <-served; !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func echoRaw(c net.Conn) {
	defer c.Close()
	b := make([]byte, 256)
	for {
		n, err := readRaw(c, b)
		if err != nil {
			return // the client is gone, and sees it
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// readRaw reads a message with its length into b.
func readRaw(c io.Reader, b []byte) (int, error) {
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint32(b))
	if n > len(b)-4 {
		return 0, fmt.Errorf("a message of %d bytes", n)
	}
	_, err := io.ReadFull(c, b[4:4+n])
	return 4 + n, err
}

// floorMessage is as long as a heartbeat with all around it.
const floorMessage = 200

// dialFloor connects a crowd to a rival.
func (m *members) dialFloor(ctx context.Context, o order) (err error) {
	if o.Kind == "websocket" {
		m.sockets, err = dialSockets(ctx, o.Address, o.N)
		return err
	}
	m.floor = make([]net.Conn, o.N)
	return each(o.N, abreast, func(i int) error {
		c, err := tls.DialWithDialer(from(8, i), "tcp", o.Address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // it is a rival of ours
		if err != nil {
			return err
		}
		m.floor[i] = c
		return c.Handshake()
	})
}

// from dials from an address of 127.network that a hundred share, as a fleet's come from many.
func from(network byte, i int) *net.Dialer {
	block := i / 100
	return &net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, network, byte(block>>8), byte(block))}}
}

// echo has every end say something each so often, at a time of its own, and counts what came back.
func (m *members) echo(ctx context.Context, o order) (answer, error) {
	message := make([]byte, floorMessage)
	binary.BigEndian.PutUint32(message, floorMessage-4)
	once := func(i int, b []byte) error {
		if m.sockets != nil {
			if err := m.sockets.all[i].conn.WriteMessage(gws.OpcodeBinary, message); err != nil {
				return err
			}
			select {
			case <-m.sockets.all[i].heard:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if _, err := m.floor[i].Write(message); err != nil {
			return err
		}
		_, err := readRaw(m.floor[i], b)
		return err
	}
	n := len(m.floor)
	if m.sockets != nil {
		n = len(m.sockets.all)
	}
	end := time.Now().Add(o.For)
	var count atomic.Int64
	err := each(n, n, func(i int) error {
		b := make([]byte, floorMessage)
		for wait := rand.N(o.Every); time.Now().Add(wait).Before(end); wait = o.Every {
			time.Sleep(wait) // the pace is what is measured against
			if err := once(i, b); err != nil {
				return err
			}
			count.Add(1)
		}
		return nil
	})
	return answer{Count: count.Load()}, err
}
