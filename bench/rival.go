package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/lxzan/gws"
	_ "modernc.org/sqlite" // the driver that the product uses

	"github.com/loopbackd/loopback/test/daemon"
)

// rival is a rival's process. It prints a line when it is ready, then answers each line on its input with one.
type rival struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startRival starts this program as a rival, and gives what it printed when it was ready.
func (b *bench) startRival(ctx context.Context, args ...string) (*rival, string, error) {
	return startRivalBy(exec.CommandContext(ctx, b.self, append([]string{"rival"}, args...)...))
}

func startRivalBy(command *exec.Cmd) (*rival, string, error) {
	r := &rival{cmd: command}
	r.cmd.Stderr = os.Stderr
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	r.out = bufio.NewScanner(out)
	r.out.Buffer(nil, 16<<20) // a crowd answers with a time for each of its agents
	if err := r.cmd.Start(); err != nil {
		return nil, "", err
	}
	line, err := r.line()
	if err != nil {
		return nil, "", errors.Join(err, r.close())
	}
	return r, line, nil
}

func (r *rival) line() (string, error) {
	if r.out.Scan() {
		return r.out.Text(), nil
	}
	err := r.out.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return "", fmt.Errorf("the rival ended: %w", err)
}

func (r *rival) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(r.in, line); err != nil {
		return "", err
	}
	return r.line()
}

func (r *rival) pid() int { return r.cmd.Process.Pid }

// close ends it: a rival lives as long as its input.
func (r *rival) close() error { return errors.Join(r.in.Close(), r.cmd.Wait()) }

// playRival is this program as a rival.
func playRival(args []string) error {
	switch args[0] {
	case "websocket":
		return serveEcho()
	case "tls":
		return serveRaw()
	case "crowd":
		return playCrowd()
	case "shells":
		return playShells(args[1])
	case "sqlite":
		return serveInserts(args[1])
	default:
		return fmt.Errorf("there is no rival %q", args[0])
	}
}

// echo answers every message with itself.
type echo struct{ gws.BuiltinEventHandler }

func (echo) OnMessage(c *gws.Conn, m *gws.Message) {
	_ = c.WriteMessage(m.Opcode, m.Bytes()) // the client sees that nothing comes
	_ = m.Close()
}

// rivalCertificate has the kind of key that the product's has.
func rivalCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rival"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// serveEcho is a plain WebSocket server over TLS 1.3, with the library that the product uses and the same kind of key.
func serveEcho() error {
	certificate, err := rivalCertificate()
	if err != nil {
		return err
	}
	upgrader := gws.NewUpgrader(echo{}, &gws.ServerOption{ReadBufferSize: 512, WriteBufferSize: 512})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := upgrader.Upgrade(w, r)
			if err == nil {
				go c.ReadLoop() // on a stack of its own, as the product does: the request's is deep
			}
		}),
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	_ = srv.Close()
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// serveInserts writes one row a transaction, each made durable before the next: what a control plane does that saves a
// host for every request. Each line of input is a number of rows; the answer is how long they took, in nanoseconds.
func serveInserts(path string) error {
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx := context.Background()
	if _, err := db.ExecContext(ctx, "CREATE TABLE host (id TEXT PRIMARY KEY, name TEXT UNIQUE, key BLOB UNIQUE, document TEXT)"); err != nil {
		return err
	}
	insert, err := db.PrepareContext(ctx, "INSERT INTO host VALUES ($1, $2, $3, $4)")
	if err != nil {
		return err
	}
	defer insert.Close()
	fmt.Println("ready")
	document, next := strings.Repeat("x", 400), 0
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		began := time.Now()
		for range n {
			next++
			if _, err := insert.ExecContext(ctx, "hst_"+strconv.Itoa(next), "host-"+strconv.Itoa(next), []byte(strconv.Itoa(next)), document); err != nil {
				return err
			}
		}
		fmt.Println(time.Since(began).Nanoseconds())
	}
	return nil
}

// insert has the rival write rows and tells how many it made durable a second, and at what cost.
func (r *rival) insert(n int) (perSecond float64, cpu time.Duration, err error) {
	before, err := daemon.CPU(r.pid())
	if err != nil {
		return 0, 0, err
	}
	answer, err := r.ask(strconv.Itoa(n))
	if err != nil {
		return 0, 0, err
	}
	took, err := strconv.ParseInt(answer, 10, 64)
	if err != nil {
		return 0, 0, err
	}
	after, err := daemon.CPU(r.pid())
	return float64(n) / time.Duration(took).Seconds(), after - before, err
}
