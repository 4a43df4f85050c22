// Package sinks holds the audit log's sinks against receivers as organisations run them: rsyslog with TLS, an OpenTelemetry
// Collector, a webhook, a file. A real control plane sends; it and its receivers are killed at random. In the end every
// receiver has every entry, and nothing twice under another id.
package sinks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/server/sink/sinktest"
	"github.com/loopbackd/loopback/test/port"
)

// program is a receiver that runs as a process of its own, at the same address in every life.
type program struct {
	Address string
	CA      string
	command func() *exec.Cmd
	log     string
	cmd     *exec.Cmd
	ended   chan struct{}
}

// Start starts it and waits until it answers at its address.
func (p *program) Start(ctx context.Context) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = p.command()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.ended = make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.Address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			text, err := os.ReadFile(p.log)
			return errors.Join(fmt.Errorf("it ended at once: %s", text), err)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer at %s: %w", p.Address, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends it without a word.
func (p *program) Kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// rsyslog is Debian's, with TLS by GnuTLS. It writes what it got into a file. Its queue is a direct one: a message is in the
// file before the next is read, so that a connection which it closes after us has been written down.
type rsyslog struct {
	program
	file string
}

func newRsyslog(dir string) (*rsyslog, error) {
	address, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	cert, ca := sinktest.Certificate()
	certificate, key, err := sinktest.PEM(cert)
	if err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{"ca.pem": []byte(ca), "cert.pem": certificate, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	r := &rsyslog{file: filepath.Join(dir, "messages")}
	config := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `global(workDirectory=%q defaultNetstreamDriver="gtls"
  defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q defaultNetstreamDriverKeyFile=%q)
main_queue(queue.type="Direct")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
input(type="imtcp" address=%q port=%q)
template(name="body" type="list") { property(name="msg") constant(value="\n") }
action(type="omfile" file=%q template="body" fileCreateMode="0600")
`, dir, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), host, port, r.file), 0o600); err != nil {
		return nil, err
	}
	r.program = program{Address: address, CA: ca, log: filepath.Join(dir, "rsyslog.log"), command: func() *exec.Cmd {
		return exec.Command("rsyslogd", "-n", "-f", config, "-i", filepath.Join(dir, "rsyslog.pid"))
	}}
	return r, nil
}

// crate is what is in its file. A last line that a kill cut short is no message: nobody was told that it was taken.
func (r *rsyslog) crate() (*sinktest.Crate, error) { return lines(r.file) }

// lines is a crate of a file with an event a line.
func lines(name string) (*sinktest.Crate, error) {
	c := sinktest.NewCrate()
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		// What is cut off in the middle of the file stands before the first line of the life that followed.
		_ = c.Take(in.Bytes())
	}
	return c, in.Err()
}

// collector is an OpenTelemetry Collector that passes on what it gets, to next, before it answers for it.
func newCollector(dir, binary, next string) (*program, error) {
	address, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	cert, ca := sinktest.Certificate()
	certificate, key, err := sinktest.PEM(cert)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "collector.yaml")
	for name, text := range map[string][]byte{
		"cert.pem": certificate, "key.pem": key,
		"collector.yaml": fmt.Appendf(nil, `receivers:
  otlp:
    protocols:
      http:
        endpoint: %s
        tls: {cert_file: %s, key_file: %s}
exporters:
  otlphttp:
    endpoint: %s
    tls: {insecure_skip_verify: true}
    headers: {Authorization: Bearer sesame}
    compression: none
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
service:
  telemetry:
    metrics: {level: none}
  pipelines:
    logs: {receivers: [otlp], exporters: [otlphttp]}
`, address, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), next),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	return &program{Address: address, CA: ca, log: filepath.Join(dir, "collector.log"), command: func() *exec.Cmd {
		return exec.Command(binary, "--config", config)
	}}, nil
}

// buildCollector builds tools/collector into a folder.
func buildCollector(ctx context.Context, dir string) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	out := filepath.Join(dir, "collector")
	c := exec.CommandContext(ctx, "go", "build", "-o", out, ".")
	c.Dir = filepath.Join(filepath.Dir(here), "..", "..", "tools", "collector")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the collector: %w: %s", err, b)
	}
	return out, nil
}
