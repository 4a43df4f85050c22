package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/loopbackd/loopback/trust"
)

const trustFile = "trust"

// Trust is what the host has learnt about its control plane's keys.
//
// It starts from the anchor in agent.yaml. A keyset that this anchor signed may vouch for a next one; once a keyset
// signed by the next has been accepted, the old anchor is no longer trusted. So the anchors that count are one or two,
// and they are kept here: agent.yaml goes on naming the first of the chain.
type Trust struct {
	Root    trust.AnchorHash   // the anchor of agent.yaml that this grew from
	Anchors []trust.AnchorHash // trusted now: the one that signed Keyset, and the next one that it names
	Version uint64             // of Keyset: the highest seen; 0: none yet
	Keyset  trust.Signed
}

// NewTrust trusts the anchor of agent.yaml and has seen nothing.
func NewTrust(root trust.AnchorHash) Trust {
	return Trust{Root: root, Anchors: []trust.AnchorHash{root}}
}

// Accept checks a keyset against what is trusted and returns what is trusted after it. The error is one of package
// trust's.
func (t Trust) Accept(s trust.Signed) (Trust, trust.Keyset, error) {
	var first error
	for _, a := range t.Anchors {
		k, err := s.Verify(a, t.Version)
		if err != nil {
			if first == nil || errors.Is(first, trust.ErrAnchor) {
				first = err // an anchor that matches and refuses says more than one that does not
			}
			continue
		}
		if k.Version == t.Version && t.Version > 0 {
			return t, k, nil
		}
		next := Trust{Root: t.Root, Anchors: []trust.AnchorHash{a}, Version: k.Version, Keyset: s}
		if k.NextAnchor != nil {
			next.Anchors = append(next.Anchors, trust.HashAnchor(k.NextAnchor))
		}
		return next, k, nil
	}
	return t, trust.Keyset{}, first
}

// Trust reads what is trusted. Where nothing was stored, or it grew from another anchor than root (the host was given
// to another deployment), it is NewTrust(root). A damaged file is set aside: the anchor of agent.yaml is still the
// judge; aside then says so.
func (s *Store) Trust(root trust.AnchorHash) (t Trust, aside error, err error) {
	t, err = ReadTrust(s.dir, root)
	if errors.Is(err, errDamaged) {
		return NewTrust(root), fmt.Errorf("the keyset's file was set aside: %w", err), s.setAside(trustFile, trustFile)
	}
	return t, nil, err
}

// ReadTrust reads what is trusted without opening the folder, and sets nothing aside.
func ReadTrust(dir string, root trust.AnchorHash) (Trust, error) {
	body, err := read(dir, trustFile, "trust")
	if errors.Is(err, fs.ErrNotExist) {
		return NewTrust(root), nil
	}
	if err != nil {
		return Trust{}, err
	}
	var t Trust
	if err := json.Unmarshal(body, &t); err != nil || len(t.Anchors) == 0 {
		return Trust{}, fmt.Errorf("read %s: %w", trustFile, errDamaged)
	}
	if t.Root != root {
		return NewTrust(root), nil
	}
	return t, nil
}

// PutTrust stores what is trusted.
func (s *Store) PutTrust(t Trust) error {
	body, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return s.replace(trustFile, seal("trust", append(body, '\n')))
}

const asideDir = "aside"

// setAside moves a damaged file to where it can be looked at. An earlier one of the same name gives way.
func (s *Store) setAside(file, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(filepath.Join(s.dir, file), filepath.Join(s.dir, asideDir, name)); err != nil {
		return problem("set a damaged file aside", err)
	}
	return nil
}

const connectionFile = "connection"

type connectionJSON struct {
	BootID     string `json:"bootId"`
	Connection uint64 `json:"connection"`
}

// NextConnection numbers a link: 1 for the first since boot, and so on, across restarts of the agent.
func (s *Store) NextConnection(bootID string) (uint64, error) {
	var c connectionJSON
	body, err := read(s.dir, connectionFile, "connection")
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
		// Counted anew. A number that occurs again is told apart from the older link by the older one being silent.
	case err != nil:
		return 0, err
	default:
		if err := json.Unmarshal(body, &c); err != nil || c.BootID != bootID {
			c = connectionJSON{}
		}
	}
	c = connectionJSON{BootID: bootID, Connection: c.Connection + 1}
	if body, err = json.Marshal(c); err != nil {
		return 0, err
	}
	return c.Connection, s.replace(connectionFile, seal("connection", append(body, '\n')))
}
