package wire

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/loopbackd/loopback/trust"
)

func BenchmarkHandshake(b *testing.B) {
	d := newDeployment(b, 1)
	a, err := prepare(d.keys)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		agent, first, _ := initiate()
		second, _, err := a.respond(first, rekeyInterval)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, _, err = agent.finish(second, []trust.AnchorHash{d.hash()}, 1, rekeyInterval); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRespond is the server's half of a handshake.
func BenchmarkRespond(b *testing.B) {
	d := newDeployment(b, 1)
	_, first, _ := initiate()
	a, err := prepare(d.keys)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := a.respond(first, rekeyInterval); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal200(b *testing.B) {
	out, in := pair(b, rekeyInterval)
	envelope := make([]byte, 200)
	var parts assembly
	b.ReportAllocs()
	for b.Loop() {
		_ = out.sealEnvelope(envelope, maxFragment, func(m []byte) error {
			plain, err := in.open(m)
			if err != nil {
				b.Fatal(err)
			}
			_, _, _ = parts.add(plain)
			return nil
		})
	}
}

// BenchmarkRoundTrip is a 200 byte message answered, both ends in one process.
func BenchmarkRoundTrip(b *testing.B) {
	for _, transport := range []string{WebSocket, Poll} {
		b.Run(transport, func(b *testing.B) {
			server := newControl(b, echo)
			c := dial(b, server.dialer(transport))
			envelope := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Send(b.Context(), envelope); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Receive(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// densityServe names the environment variable by which the benchmark's own binary becomes the server measured.
const densityServe = "WIRE_DENSITY_SERVE"

func TestMain(m *testing.M) {
	if kind := os.Getenv(densityServe); kind != "" {
		serveDensity(kind)
		return
	}
	os.Exit(m.Run())
}

// densityAddress is what the server measured tells the benchmark on its first line.
type densityAddress struct {
	URL    string
	Cert   []byte
	Anchor []byte
}

// densityPeer answers a message as a hub answers a heartbeat: with one of the same size.
type densityPeer struct{ link *Link }

func (p densityPeer) Receive(envelope []byte) { _ = p.link.Send(envelope) }
func (densityPeer) Closed(error)              {}

// gwsEcho is the rival: the same library over the same TLS, unsealed.
type gwsEcho struct{ gws.BuiltinEventHandler }

func (gwsEcho) OnMessage(c *gws.Conn, m *gws.Message) {
	_ = c.WriteMessage(m.Opcode, m.Bytes())
	_ = m.Close()
}

func serveDensity(kind string) {
	public, anchor, _ := ed25519.GenerateKey(rand.Reader)
	key, _ := ecdh.X25519().GenerateKey(rand.Reader)
	signed, _ := trust.Keyset{Version: 1, LinkKeys: [][]byte{key.PublicKey().Bytes()}}.Sign(anchor)
	server := &Server{
		Keys: func() ServerKeys {
			return ServerKeys{Private: key.Bytes(), Public: key.PublicKey().Bytes(), Keyset: signed}
		},
		Accept: func(l *Link) Receiver { return densityPeer{l} },
	}
	handler := server.ServeLink
	if kind == "gws" {
		upgrader := gws.NewUpgrader(gwsEcho{}, nil)
		handler = func(w http.ResponseWriter, r *http.Request) {
			if c, err := upgrader.Upgrade(w, r); err == nil {
				go c.ReadLoop()
			}
		}
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	s.Config.ErrorLog = discardLog
	s.StartTLS()
	hash := trust.HashAnchor(public)
	line, _ := json.Marshal(densityAddress{s.URL, s.Certificate().Raw, hash[:]})
	fmt.Println(string(line))
	_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark goes
}

// BenchmarkDensity measures a server in a process of its own: resident memory of a connection and processor time of a
// connect and of a 200 byte message answered, beside a plain echo by the same library over the same TLS.
// WIRE_DENSITY sets the number of connections, 1,000 unless told.
func BenchmarkDensity(b *testing.B) {
	connections := 1000
	if n, err := strconv.Atoi(os.Getenv("WIRE_DENSITY")); err == nil {
		connections = n
	}
	for _, kind := range []string{"wire", "gws"} {
		b.Run(kind, func(b *testing.B) {
			for range b.N {
				measureDensity(b, kind, connections)
			}
		})
	}
}

type exchanger func(message []byte) error

func measureDensity(b *testing.B, kind string, connections int) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), densityServe+"="+kind)
	child.Stderr = os.Stderr
	stdin, _ := child.StdinPipe()
	stdout, _ := child.StdoutPipe()
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = child.Wait() }()
	var address densityAddress
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &address)
	}
	if err != nil {
		b.Fatal(err)
	}
	config := &tls.Config{InsecureSkipVerify: true} // the rival has nothing to verify by; neither cost is the server's
	var source int
	var mu sync.Mutex
	dialer := Dialer{Endpoint: address.URL, TLS: config, Transport: WebSocket, Anchor: trust.AnchorHash(address.Anchor), Timeout: 30 * time.Second}
	dialer.Connect = func(ctx context.Context, network, to string) (net.Conn, error) {
		mu.Lock()
		source++
		local := net.IPv4(127, 0, byte(1+source/200), byte(1+source%200))
		mu.Unlock()
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local}}).DialContext(ctx, network, to)
	}
	memory0, cpu0 := resident(b, child.Process.Pid), processorTime(b, child.Process.Pid)
	exchangers := make([]exchanger, connections)
	each(connections, func(i int) {
		exchange, closeIt, err := dialExchanger(b, kind, dialer)
		if err != nil {
			b.Error(err)
			return
		}
		exchangers[i] = exchange
		mu.Lock()
		b.Cleanup(closeIt)
		mu.Unlock()
	})
	if b.Failed() {
		return
	}
	cpu1 := processorTime(b, child.Process.Pid)
	memory1 := resident(b, child.Process.Pid)
	const rounds = 20
	begin := time.Now()
	for range rounds {
		each(connections, func(i int) {
			if err := exchangers[i](make([]byte, 200)); err != nil {
				b.Error(err)
			}
		})
	}
	elapsed := time.Since(begin)
	cpu2, memory2 := processorTime(b, child.Process.Pid), resident(b, child.Process.Pid)
	n := float64(connections)
	b.ReportMetric(float64(memory1-memory0)/n, "KiB/connected")
	b.ReportMetric(float64(memory2-memory0)/n, "KiB/after-20")
	b.ReportMetric((cpu1-cpu0).Seconds()*1e6/n, "cpu-µs/connect")
	b.ReportMetric((cpu2-cpu1).Seconds()*1e6/(n*rounds), "cpu-µs/message")
	b.ReportMetric(n*rounds/elapsed.Seconds(), "messages/s")
	b.ReportMetric(0, "ns/op")
}

// dialExchanger makes a connection of either kind, and has it exchange one message.
func dialExchanger(b *testing.B, kind string, d Dialer) (exchanger, func(), error) {
	if kind == "wire" {
		c, err := d.Dial(b.Context())
		if err != nil {
			return nil, nil, err
		}
		exchange := func(m []byte) error {
			if err := c.Send(b.Context(), m); err != nil {
				return err
			}
			_, err := c.Receive(b.Context())
			return err
		}
		return exchange, func() { c.end(ErrLost); c.work.Wait() }, exchange([]byte("x"))
	}
	u, _ := url.Parse(d.Endpoint)
	w := way{Dialer: d, endpoint: u}
	conn, err := w.connect(b.Context())
	if err != nil {
		return nil, nil, err
	}
	socket := &agentSocket{conn: conn, reader: bufio.NewReader(conn)}
	if err := w.upgrade(socket); err != nil {
		return nil, nil, err
	}
	exchange := func(m []byte) error {
		if err := socket.frame(opBinary, m); err != nil {
			return err
		}
		_, err := readSocketMessage(socket.reader, nil, socket.control)
		return err
	}
	return exchange, socket.cut, exchange([]byte("x"))
}

// each calls f for 0 to n-1 on 32 goroutines.
func each(n int, f func(i int)) {
	indexes := make(chan int)
	var working sync.WaitGroup
	for range 32 {
		working.Go(func() {
			for i := range indexes {
				f(i)
			}
		})
	}
	for i := range n {
		indexes <- i
	}
	close(indexes)
	working.Wait()
}

// resident is a process's resident memory in KiB.
func resident(b *testing.B, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// processorTime is what a process has used of the processors, its threads' nanoseconds added up.
func processorTime(b *testing.B, pid int) (total time.Duration) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		if err != nil {
			continue
		}
		n, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		total += time.Duration(n)
	}
	return total
}
