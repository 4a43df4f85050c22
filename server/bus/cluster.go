package bus

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Cluster is how the embedded server reaches those of the other replicas.
type Cluster struct {
	Name      string // the deployment's id: servers of another one are refused
	Listen    string // HOST:PORT that the others' routes come to
	Advertise string // HOST:PORT by which they find it; empty: Listen
	Peers     []string
	TLS       *tls.Config // for both ends of a route
}

func (c *Cluster) apply(to *server.Options) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("the address for routes: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("the address for routes: %w", err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	to.DontListen, to.Host, to.Port = false, "127.0.0.1", server.RANDOM_PORT
	to.NoSystemAccount = true // nobody watches its events
	to.PingInterval, to.MaxPingsOut = 5*time.Second, 2
	to.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Port: number, Advertise: c.Advertise, TLSConfig: c.TLS, TLSTimeout: 5,
		ConnectRetries: 0, PoolSize: -1, // one route carries it all
		PingInterval: 5 * time.Second, MaxPingsOut: 2, // what is cut without a word shows within some 15 s
	}
	for _, p := range c.Peers {
		to.Routes = append(to.Routes, &url.URL{Scheme: "nats-route", Host: p})
	}
	return nil
}

// Outside is a NATS server, or several, that the operator runs.
type Outside struct {
	URL         string // nats://… or tls://…, several divided by commas
	CA          string // PEM file of whom its certificate must come from; empty: the system's
	Certificate string // PEM files of ours, where it asks for one
	Key         string
	Credentials string // file that NATS calls credentials
}

func (o *Outside) options(log *slog.Logger) ([]nats.Option, error) {
	out := []nats.Option{
		nats.RetryOnFailedConnect(true), nats.ReconnectWait(time.Second), nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			log.Warn("the bus is away; replicas learn of changes by looking", "bus", o.redacted(), "error", err)
		}),
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		b, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("reading the bus's CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s has no certificate in it", o.CA)
		}
	}
	if o.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(o.Certificate, o.Key)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate for the bus: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if o.CA != "" || o.Certificate != "" {
		out = append(out, nats.Secure(config))
	}
	if o.Credentials != "" {
		if _, err := os.Stat(o.Credentials); err != nil {
			return nil, fmt.Errorf("reading the credentials for the bus: %w", err)
		}
		out = append(out, nats.UserCredentials(o.Credentials))
	}
	return out, nil
}

func (o *Outside) redacted() string {
	if u, err := url.Parse(o.URL); err == nil {
		return u.Redacted()
	}
	return "its address"
}

// envelope is a message as several replicas send it.
type envelope struct {
	Replica   string          `json:"replica"`
	At        time.Time       `json:"at"`
	Message   json.RawMessage `json:"message"`
	Signature []byte          `json:"signature"`
}

// staleness is how old a message may be, or how far ahead of our clock: replicas' clocks differ, but not by more.
const staleness = 5 * time.Minute

// signedText is what is signed: subject and time with the message, so that it cannot be passed off as another.
func signedText(subject string, e envelope) []byte {
	return fmt.Appendf(nil, "%s\x00%s\x00%s", subject, e.At.Format(time.RFC3339Nano), e.Message)
}

func (b *Bus) signed(subject string, message []byte) ([]byte, error) {
	e := envelope{At: b.clock().UTC().Round(0), Message: message}
	e.Replica, e.Signature = b.signer.Sign(signedText(subject, e))
	return json.Marshal(e)
}

var errForged = errors.New("no replica has signed it")

// opened is the message in an envelope, or all of it where this replica is alone.
func (b *Bus) opened(subject string, data []byte) ([]byte, error) {
	if b.signer == nil {
		return data, nil
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil || e.Replica == "" {
		return nil, errForged
	}
	if age := b.clock().Sub(e.At); age > staleness || age < -staleness {
		return nil, fmt.Errorf("it is %s old", age)
	}
	if !b.signer.Verify(e.Replica, signedText(subject, e), e.Signature) {
		return nil, errForged
	}
	return e.Message, nil
}
