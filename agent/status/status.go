// Package status is what the agent says of itself to those on the host.
//
// A running agent answers GET /v1/status on a Unix socket that only root may open. Nothing can be done over it, it only
// tells. Where nobody answers, no agent runs, and Fetch says so.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// DefaultSocket of the agent.
const DefaultSocket = "/run/loopback/agent.sock"

// Report is how the agent is.
type Report struct {
	// State of the link: connecting, waiting (before the next try), linked, refused (for good) or stopped.
	State string    `json:"state"`
	Since time.Time `json:"since"`
	// OK: linked, managed, and every section applied. What `loopback-agent status` exits by.
	OK bool `json:"ok"`
	// Reason that it is not OK.
	Reason string `json:"reason,omitempty"`

	Version     string `json:"version"`
	HostID      string `json:"hostId"`
	HostName    string `json:"hostName"`
	WorkspaceID string `json:"workspaceId"`
	// Standing: managed, pending or quarantined; empty before the first link.
	Standing       string     `json:"standing"`
	StandingReason string     `json:"standingReason,omitempty"`
	Endpoint       string     `json:"endpoint"`
	Transport      string     `json:"transport,omitempty"`
	Server         string     `json:"serverVersion,omitempty"`
	Heartbeat      string     `json:"heartbeat,omitempty"`
	LastHeard      *time.Time `json:"lastHeard,omitempty"`
	RetryAt        *time.Time `json:"retryAt,omitempty"`
	Attempts       int64      `json:"failedAttempts"`
	ClockSkew      string     `json:"clockSkew,omitempty"`
	Keyset         uint64     `json:"keysetVersion"`
	KeyGeneration  int64      `json:"keyGeneration"`
	Sections       []Section  `json:"sections"`
	Modules        []Module   `json:"modules"`
	LastError      *Problem   `json:"lastError,omitempty"`
	// AuditLog is the last checkpoint of the control plane's audit log that this host accepted.
	AuditLog *AuditLog `json:"auditLog,omitempty"`
}

// AuditLog is what this host remembers: the key of the log, and a signed checkpoint of it (C2SP).
type AuditLog struct {
	Key        string `json:"key"`
	Checkpoint string `json:"checkpoint"`
}

// Section is how far a section has come.
type Section struct {
	Name      string     `json:"name"`
	Status    string     `json:"status"`
	Revision  string     `json:"revision"`
	AppliedAt *time.Time `json:"appliedAt,omitempty"`
	Message   string     `json:"message,omitempty"`
	Frozen    bool       `json:"frozen,omitempty"`
}

// Module is the health of one.
type Module struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Message string `json:"message,omitempty"`
}

// Problem is an error with what to do about it.
type Problem struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
	At      time.Time `json:"at"`
}

// Server answers on the socket. Make it with Listen.
type Server struct {
	listener net.Listener
	report   func() Report
}

// Listen opens the socket, for root only, in a folder that is made where it is missing. A socket that a dead agent left
// is replaced.
func Listen(path string, report func() Report) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the status socket's folder: %w", err)
	}
	// A name of its own, so that nobody connects before the mode is right, then moved over the old socket.
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the status socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the status socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o660), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("open the status socket: %w", err), l.Close(), os.Remove(fresh))
	}
	return &Server{listener: l, report: report}, nil
}

// Serve answers until ctx ends. The socket's file stays: the next agent replaces it.
func (s *Server) Serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.Marshal(s.report())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b) // whoever asked may be gone
	})
	h := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stop()
	if err := h.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the status socket: %w", err)
	}
	return nil
}

// ErrNotRunning says that no agent answers.
var ErrNotRunning = fault.New(fault.Unavailable, "agent_not_running", "no agent runs on this host").
	WithHint("start it: systemctl start loopback-agent; see why it stopped: journalctl -u loopback-agent")

// Fetch asks the agent that listens on the socket.
func Fetch(ctx context.Context, path string) (Report, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		return Report{}, err
	}
	answer, err := c.Do(r)
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Report{}, fault.New(fault.Denied, "status_permission", "only root may ask the agent").WithHint("use sudo").WithCause(err)
	case err != nil && ctx.Err() != nil:
		return Report{}, fault.Of(ctx.Err())
	case err != nil:
		return Report{}, ErrNotRunning.WithCause(err)
	}
	defer answer.Body.Close()
	var out Report
	if err := json.NewDecoder(io.LimitReader(answer.Body, 4<<20)).Decode(&out); err != nil || answer.StatusCode != http.StatusOK {
		return Report{}, fault.New(fault.Internal, "status_unreadable", "the agent's answer cannot be read (HTTP %d)", answer.StatusCode).WithCause(err)
	}
	return out, nil
}
