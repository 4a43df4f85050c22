package linktest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
)

// Cloned locks a host that several machines answered for.
func (f *Fleet) Cloned(_ context.Context, hostID string, found []host.Copy) (*link.Known, error) {
	if err := f.fail(nil); err != nil {
		return nil, err
	}
	if err := f.change(hostID, func(k *link.Known) error {
		h := f.asHost(k)
		h.Lock(found, time.Now())
		k.Lifecycle, k.LifecycleReason, k.Clones, k.NextKey = h.Lifecycle, h.LifecycleReason, h.Clones, h.NextKey
		return nil
	}); err != nil {
		return nil, err
	}
	f.tell(hostID)
	return f.Lookup(hostID), nil
}

func (f *Fleet) asHost(k *link.Known) host.Host {
	h := host.Host{Key: k.Key, NextKey: k.NextKey, Clones: k.Clones}
	h.Name, h.Lifecycle, h.LifecycleReason = k.HostID, k.Lifecycle, k.LifecycleReason
	return h
}

// Decide is an operator's decision on a host that is locked as cloned.
func (f *Fleet) Decide(hostID, keep string, others host.Verdict) error {
	if err := f.change(hostID, func(k *link.Known) error {
		h := f.asHost(k)
		err := h.Decide(keep, others)
		k.Lifecycle, k.LifecycleReason, k.Clones = h.Lifecycle, h.LifecycleReason, h.Clones
		return err
	}); err != nil {
		return err
	}
	f.tell(hostID)
	return nil
}

// Settling has a host's own value of a section taken over.
func (f *Fleet) Settling(hostID, name string) error {
	if err := f.change(hostID, func(k *link.Known) error {
		k.Settling = []string{name}
		return nil
	}); err != nil {
		return err
	}
	f.tell(hostID)
	return nil
}

// Adopt makes what a host holds the desired value, under the next revision.
func (f *Fleet) Adopt(_ context.Context, hostID string, held section.Section) error {
	if err := f.fail(nil); err != nil {
		return err
	}
	f.mu.Lock()
	f.number++
	held.Revision = section.Revision{Epoch: f.epoch.Number, Number: f.number}
	f.mu.Unlock()
	if err := f.change(hostID, func(k *link.Known) error {
		k.Settling = nil
		return nil
	}); err != nil {
		return err
	}
	return f.WantOf(hostID, held)
}

// Succeeded takes up a key that followed from the current one.
func (f *Fleet) Succeeded(_ context.Context, hostID string, from ed25519.PublicKey, keys []ed25519.PublicKey, generation int64) (*link.Known, error) {
	if err := f.fail(nil); err != nil {
		return nil, err
	}
	err := f.change(hostID, func(k *link.Known) error {
		if !from.Equal(k.Key) {
			return fmt.Errorf("the key is not the current one")
		}
		k.PastKeys = append(slices.Clone(k.PastKeys), sha256.Sum256(from))
		k.Key, k.Generation = keys[len(keys)-1], generation
		return nil
	})
	return f.Lookup(hostID), err
}

// Split makes a host of its own of a copy.
func (f *Fleet) Split(_ context.Context, from string, e link.Enrolment) (link.Enrolled, error) {
	if err := f.fail(nil); err != nil {
		return link.Enrolled{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.byKey[string(e.Key)]; ok {
		return f.hosts[known].answer, nil
	}
	if f.hosts[from] == nil {
		return link.Enrolled{}, fmt.Errorf("no host %s", from)
	}
	hostID := id.New("hst", time.Now())
	f.byKey[string(e.Key)] = hostID
	r := &record{
		known:  &link.Known{HostID: hostID, WorkspaceID: "ws_test", Lifecycle: host.LifecycleActive, Key: e.Key, Generation: 1, AgentVersion: e.AgentVersion},
		answer: link.Enrolled{HostID: hostID, HostName: e.HostName, WorkspaceID: "ws_test", State: host.Enrolling, Channel: "stable"},
	}
	f.hosts[hostID] = r
	return r.answer, nil
}
