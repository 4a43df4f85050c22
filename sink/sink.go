// Package sink is where the audit log is sent to: a webhook, a syslog server, an OpenTelemetry collector, or files.
//
// A sink has a cursor: the position of the last entry that its receiver has. It moves only after the receiver answered
// for what was sent, so a receiver that is away, slow or restarted gets everything in order once it is back; after a lost
// answer it gets some entries a second time, under the ids that they had. Entries go out as they are committed; a sink
// of an organisation gets what happened there, one without an organisation everything. A single entry that its receiver
// will not have is set aside as a dead letter.
package sink

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over sinks.
const (
	Create access.Permission = "sinks.create"
	Read   access.Permission = "sinks.read"
	Update access.Permission = "sinks.update" // pause, resume, replay, resend and dismiss dead letters
	Delete access.Permission = "sinks.delete"
)

// Kind of receiver.
type Kind string

// The kinds.
const (
	Webhook Kind = "webhook" // HTTPS POST, signed as Standard Webhooks does
	Syslog  Kind = "syslog"  // RFC 5424 over TLS (RFC 5425)
	OTLP    Kind = "otlp"    // OpenTelemetry logs over HTTP
	File    Kind = "file"    // lines of JSON in a file of the control plane
)

// Kinds are all of them.
var Kinds = []Kind{Webhook, Syslog, OTLP, File}

// Format of an event.
type Format string

// The formats.
const (
	JSON Format = "json" // the entry as it is hashed into the ledger
	OCSF Format = "ocsf" // Open Cybersecurity Schema Framework
	ECS  Format = "ecs"  // Elastic Common Schema
)

// Formats are all of them.
var Formats = []Format{JSON, OCSF, ECS}

// Sink is one receiver.
type Sink struct {
	tenant.Meta
	Organisation string // id; empty: of the whole deployment
	Kind         Kind
	Target       string // URL, HOST:PORT, or a file's name
	Format       Format
	CA           string // PEM of who signed the receiver's certificate; empty: the system's
	Sealed       []byte // the secret, encrypted
	Paused       bool

	Cursor        int64 // position of the last entry that the receiver has
	Delivered     int64 // entries since the sink was made
	Failures      int64 // in a row
	LastError     string
	FailedAt      time.Time
	DeliveredAt   time.Time
	LeaseOwner    string // replica that ships
	LeaseUntil    time.Time
	Limit         int64  // bytes of an event that the receiver takes; 0: the kind's own
	Refused       int64  // entries that were set aside since the last that it took
	CheckpointLog string // last checkpoint that was sent along
}

// Scope is where the sink is.
func (s Sink) Scope() access.Scope { return access.Scope{Organisation: s.Organisation} }

// Health is a sink's state in a word.
func (s Sink) Health() string {
	switch {
	case s.Paused:
		return "paused"
	case s.Failures > 0:
		return "failing"
	}
	return "ok"
}

var fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

// Validate collects what is wrong with a sink that is to be made.
func (s Sink) Validate(c *fault.Check) {
	tenant.CheckName(c, "name", s.Name)
	c.That(slices.Contains(Formats, s.Format), "format", "is %q; allowed are json, ocsf and ecs", string(s.Format))
	switch s.Kind {
	case Webhook, OTLP:
		u, err := url.Parse(s.Target)
		c.That(err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.Fragment == "", "target", "is %q, not https://HOST/PATH", s.Target)
	case Syslog:
		host, port, err := net.SplitHostPort(s.Target)
		c.That(err == nil && host != "" && port != "", "target", "is %q, not HOST:PORT; syslog over TLS has port 6514", s.Target)
	case File:
		c.That(fileName.MatchString(s.Target) && !strings.Contains(s.Target, ".."), "target", "is %q; a file's name has a-z, 0-9, dot, dash and underscore, and no folder", s.Target)
	default:
		c.Add("kind", "is %q; allowed are webhook, syslog, otlp and file", string(s.Kind))
	}
	c.That(len(s.Target) <= 2048, "target", "is %d bytes long; at most 2048 are allowed", len(s.Target))
	c.That(len(s.CA) <= 64<<10, "ca", "is %d bytes long; at most 65536 are allowed", len(s.CA))
}

// Query selects sinks, newest first.
type Query struct {
	Readable access.Sight
	Page     tenant.Page
}

// DeadLetter is an entry that the receiver refused over and over while it took others. It was set aside so that those
// behind it are not held up, and stays until it is delivered after all or somebody dismisses it.
type DeadLetter struct {
	ID       string // "dlt_…"
	Sink     string
	Position int64 // of the entry
	Entry    string
	Action   access.Permission
	Reason   string // what the receiver answered
	Tries    int64
	At       time.Time // when it was last refused
	Resend   bool      // it is to be tried once more
}

// DeadLetterQuery selects a sink's dead letters in the order of their entries.
type DeadLetterQuery struct {
	Sink   string
	Resend bool // only those that are to be tried once more
	Page   tenant.Page
}
