package config

import (
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/fault"
)

// Cluster is what a replica among several is told. A control plane for which none of it is set is alone.
type Cluster struct {
	Listen        string   // HOST:PORT that the others' buses connect to
	Peers         []string // HOST:PORT of others, beyond those that the database names
	ReplicaListen string   // HOST:PORT of what replicas ask of each other
	Advertise     string   // name or address by which the others reach this machine

	Bus            string // nats://… of a bus outside instead of the embedded one
	BusCA          string
	BusCertificate string
	BusKey         string
	BusCredentials string
}

func (s *Cluster) register(f *pflag.FlagSet) {
	f.StringVar(&s.Listen, "cluster-listen", "", "`ADDRESS` that other replicas' buses connect to, under mutual TLS (default with several replicas: :8445)")
	f.StringSliceVar(&s.Peers, "cluster-peers", nil, "`ADDRESS` of another replica's cluster-listen, beyond those that the database names (repeatable)")
	f.StringVar(&s.ReplicaListen, "replica-listen", "", "`ADDRESS` of what replicas ask of each other, under mutual TLS (default with several replicas: :8444)")
	f.StringVar(&s.Advertise, "advertise", "", "`HOST` by which other replicas reach this one (default: that of replica-listen, else this machine's name)")
	f.StringVar(&s.Bus, "bus", "", "`URL` of a NATS server outside, nats:// or tls://, instead of the embedded one (several divided by commas)")
	f.StringVar(&s.BusCA, "bus-ca", "", "PEM `FILE` of the CA of that server's certificate")
	f.StringVar(&s.BusCertificate, "bus-certificate", "", "PEM `FILE` of this replica's certificate for it")
	f.StringVar(&s.BusKey, "bus-key", "", "PEM `FILE` of that certificate's key")
	f.StringVar(&s.BusCredentials, "bus-credentials", "", "NATS credentials `FILE` for it")
}

// On tells whether there are, or may be, several replicas.
func (s *Cluster) On() bool {
	return s.Listen != "" || len(s.Peers) > 0 || s.Bus != "" || s.ReplicaListen != ""
}

// complete gives what was not set its default.
func (s *Cluster) complete() {
	if !s.On() {
		return
	}
	if s.Bus == "" && s.Listen == "" {
		s.Listen = ":8445"
	}
	if s.ReplicaListen == "" {
		s.ReplicaListen = ":8444"
	}
	if s.Advertise == "" {
		s.Advertise, _, _ = net.SplitHostPort(s.ReplicaListen)
		if ip := net.ParseIP(s.Advertise); s.Advertise == "" || ip != nil && ip.IsUnspecified() {
			s.Advertise, _ = os.Hostname()
		}
	}
}

// Advertised is where others reach what listens at an address.
func (s *Cluster) Advertised(listen string) string {
	if listen == "" {
		return ""
	}
	_, port, _ := net.SplitHostPort(listen)
	return net.JoinHostPort(s.Advertise, port)
}

func (s *Cluster) check(c *fault.Check, at func(flag string) string, database string) {
	for flag, value := range map[string]string{"cluster-listen": s.Listen, "replica-listen": s.ReplicaListen} {
		if _, port, err := net.SplitHostPort(value); value != "" && (err != nil || port == "" || port == "0") {
			c.Add(at(flag), "is %q, not HOST:PORT with a port that others can be told", value)
		}
	}
	for _, p := range s.Peers {
		if host, port, err := net.SplitHostPort(p); err != nil || host == "" || port == "" {
			c.Add(at("cluster-peers"), "is %q, not HOST:PORT", p)
		}
	}
	c.That(s.Advertise == "" || !strings.ContainsAny(s.Advertise, "/ ") && !strings.Contains(s.Advertise, "://"), at("advertise"), "is %q; give a name or an address without a port", s.Advertise)
	if s.Bus != "" {
		for _, one := range strings.Split(s.Bus, ",") {
			u, err := url.Parse(strings.TrimSpace(one))
			if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Host == "" {
				c.Add(at("bus"), "is neither nats://HOST:PORT nor tls://HOST:PORT")
			}
		}
		c.That(s.Listen == "" && len(s.Peers) == 0, at("bus"), "is outside: cluster-listen and cluster-peers are of the embedded one; leave either out")
	} else {
		for flag, value := range map[string]string{"bus-ca": s.BusCA, "bus-certificate": s.BusCertificate, "bus-key": s.BusKey, "bus-credentials": s.BusCredentials} {
			c.That(value == "", at(flag), "is for a bus outside; name that with bus, or leave this out")
		}
	}
	c.That(s.BusCertificate == "" || s.BusKey != "", at("bus-certificate"), "goes together with bus-key, which is missing")
	c.That(s.BusKey == "" || s.BusCertificate != "", at("bus-key"), "goes together with bus-certificate, which is missing")
	c.That(!s.On() || strings.Contains(database, "://"), at("database"), "is a file; several replicas share a PostgreSQL database: postgres://USER@HOST/DATABASE")
}
