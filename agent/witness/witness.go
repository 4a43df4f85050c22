// Package witness makes this host remember the audit log's checkpoints.
//
// The module holds the last checkpoint that it accepted in a file of its own below the state folder, from where it outlives
// restarts, updates, and that the machine becomes another host. A section brings the next; it is accepted where the log only grew
// since, and refused otherwise with a stable code: the section has failed then, which the control plane is told and shows, and what is
// remembered stays. Two signed checkpoints that contradict each other are kept beside it as evidence.
//
// Root reads what is remembered with `loopback-agent status`, or in the file. Nothing of it can be changed over the link.
package witness

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/witness"
)

// Folder below the state folder, and the file in it.
const (
	Folder = "witness"
	File   = "checkpoint.json"
)

// maxEvidence bounds the files of evidence; the first are the ones that matter.
const maxEvidence = 16

// Module remembers. Make it with New.
type Module struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex
	memory witness.Memory // guarded by mu
	broken error          // why what is remembered cannot be read; guarded by mu
}

// New reads what this host remembers.
func New(stateDir string, log *slog.Logger) *Module {
	m := &Module{dir: filepath.Join(stateDir, Folder), log: log}
	m.read()
	return m
}

// Restart reads what this host remembers anew: a file that was damaged may be another by now, put there by root.
func (m *Module) Restart(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read()
	return nil
}

// read is for New, and for whoever holds mu.
func (m *Module) read() {
	m.memory, m.broken = witness.Memory{}, nil
	b, err := os.ReadFile(filepath.Join(m.dir, File))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(b, &m.memory)
	}
	if err == nil && m.memory.Checkpoint == "" {
		err = errors.New("it holds no checkpoint")
	}
	if err != nil {
		m.broken = fault.New(fault.Precondition, "audit_memory_damaged", "what this host remembers of the audit log cannot be read").WithCause(err).
			WithHint("look at %s; moved aside, what this host saw is forgotten", filepath.Join(m.dir, File))
		m.log.Error("what is remembered of the audit log cannot be read", "file", filepath.Join(m.dir, File), "error", err)
	}
}

// Name of the section.
func (m *Module) Name() string { return witness.SectionName }

// Apply takes a step, or refuses it.
func (m *Module) Apply(_ context.Context, s section.Section) section.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return failed(m.broken)
	}
	step, err := witness.FromSection(s)
	if err != nil {
		return failed(err)
	}
	next, lost, err := witness.Judge(m.memory, step)
	if err != nil {
		m.log.Error("a checkpoint of the audit log was refused", "code", fault.Of(err).Code, "error", err, "remembered", m.memory.Checkpoint, "sent", step.Checkpoint)
		m.keep(witness.Evidence(err))
		return failed(err)
	}
	if lost != "" {
		m.log.Error("the audit log that this host remembers did not go on whole", "what", lost, "remembered", m.memory.Checkpoint, "sent", step.Checkpoint)
		m.keep(fmt.Appendf(nil, "%s\n%s\n", m.memory.Checkpoint, step.Checkpoint))
	}
	if next != m.memory {
		if err := m.store(next); err != nil {
			return failed(fault.New(fault.Unavailable, "audit_memory_unwritable", "the checkpoint cannot be kept").WithCause(err))
		}
		m.memory = next
	}
	out := section.Status{State: section.Applied, Message: m.says()}
	if lost != "" {
		out.State, out.Message = section.Degraded, "audit_log_restored: "+lost
	}
	return out
}

func failed(err error) section.Status {
	f := fault.Of(err)
	return section.Status{State: section.Failed, Message: f.Code + ": " + f.Message}
}

// says is what is remembered, in a line; mu is held.
func (m *Module) says() string {
	k, err := ledger.ParseKey(m.memory.Key)
	if err != nil {
		return ""
	}
	c, err := k.Open(m.memory.Checkpoint)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("remembers %d entries of %s, root %s", c.Size, c.Origin, base64.StdEncoding.EncodeToString(c.Root[:]))
}

func (m *Module) store(next witness.Memory) error {
	b, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(m.dir, File), append(b, '\n'), 0o600)
}

// keep keeps evidence, each once. Where it cannot, the log has it.
func (m *Module) keep(evidence []byte) {
	if len(evidence) == 0 {
		return
	}
	sum := sha256.Sum256(evidence)
	name := filepath.Join(m.dir, "evidence-"+hex.EncodeToString(sum[:8])+".txt")
	if _, err := os.Stat(name); err == nil {
		return
	}
	held, err := filepath.Glob(filepath.Join(m.dir, "evidence-*.txt"))
	if err != nil || len(held) >= maxEvidence {
		return
	}
	if err := errors.Join(durable.MkdirAll(m.dir, 0o700), durable.WriteFile(name, evidence, 0o600)); err != nil {
		m.log.Error("evidence about the audit log cannot be kept", "error", err)
	}
}

// Health is bad where what is remembered cannot be read.
func (m *Module) Health() host.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := host.Health{Module: m.Name(), Healthy: m.broken == nil}
	if m.broken != nil {
		h.Message = fault.Of(m.broken).Message
	}
	return h
}

// Memory is what is remembered; nothing where the control plane never sent a checkpoint here.
func (m *Module) Memory() witness.Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.memory
}
