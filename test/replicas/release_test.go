package replicas

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/mirror"
	"github.com/loopbackd/loopback/release/publish"
	"github.com/loopbackd/loopback/test/daemon"
)

// publisher publishes through an address; every is called after each part that was taken.
type publisher struct {
	client *daemon.Client
	every  func(part int)
	parts  int
}

// lost says that a call may be made again, as it does of a connection that broke.
func lost(err error) error {
	if code := connect.CodeOf(err); err != nil && (code == connect.CodeUnavailable || code == connect.CodeUnknown) {
		return fault.New(fault.Unavailable, "unreachable", "the replica went away").WithCause(err)
	}
	return err
}

func (p *publisher) Metadata(ctx context.Context) (publish.Metadata, error) {
	r, err := p.client.Releases.GetReleaseMetadata(ctx, connect.NewRequest(&pb.GetReleaseMetadataRequest{}))
	if err != nil {
		return publish.Metadata{}, lost(err)
	}
	return publish.Metadata{Files: r.Msg.GetFiles(), SnapshotKey: r.Msg.GetSnapshotKey(), TimestampKey: r.Msg.GetTimestampKey()}, nil
}

func (p *publisher) Upload(ctx context.Context, sum string, length, offset int64, data []byte) (int64, bool, error) {
	r, err := p.client.Releases.UploadArtefact(ctx, connect.NewRequest(&pb.UploadArtefactRequest{Sha256: sum, Length: length, Offset: offset, Data: data}))
	if err != nil {
		return 0, false, lost(err)
	}
	if p.parts++; p.every != nil {
		p.every(p.parts)
	}
	return r.Msg.GetOffset(), r.Msg.GetComplete(), nil
}

func (p *publisher) Publish(ctx context.Context, roots [][]byte, targets []byte) ([]release.Release, error) {
	r, err := p.client.Releases.PublishRelease(ctx, connect.NewRequest(&pb.PublishReleaseRequest{Roots: roots, Targets: targets}))
	if err != nil {
		return nil, lost(err)
	}
	var out []release.Release
	for _, item := range r.Msg.Items {
		out = append(out, release.Release{Program: item.Program, Version: item.Version, Channel: item.Channel})
	}
	return out, nil
}

// installs demands that a replica serves a program as a host's installer asks for it: verified from the first root on.
func (c *cluster) installs(d *daemon.Daemon, root []byte, version string, program []byte) {
	c.t.Helper()
	to := c.t.TempDir()
	copied, err := mirror.Copy(c.within(time.Minute), to, mirror.Options{URL: d.URL + "/dl", Client: d.HTTP, Root: root, Plain: true})
	if err != nil {
		c.t.Errorf("%s: %v", d.Address, err)
		return
	}
	path := release.Agent + "/" + version + "/linux-amd64/loopback-agent"
	if got, err := os.ReadFile(filepath.Join(to, "targets", path)); err != nil || !bytes.Equal(got, program) {
		c.t.Errorf("%s serves %d bytes of %s, %v; want all %d of %d targets", d.Address, len(got), path, err, len(program), len(copied.Targets))
	}
	if _, err := d.Releases.GetInstallCommand(c.within(10*time.Second), connect.NewRequest(&pb.GetInstallCommandRequest{})); err != nil {
		c.t.Errorf("%s has no install command: %v", d.Address, err)
	}
	r, err := d.HTTP.Get(d.URL + "/install.sh")
	if err != nil {
		c.t.Errorf("%s: %v", d.Address, err)
		return
	}
	defer r.Body.Close()
	if script, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK || len(script) == 0 {
		c.t.Errorf("%s serves its script as %d: %v", d.Address, r.StatusCode, err)
	}
}

// A release is published through the balancer while a replica dies; every other one, the dead one when it is back, and
// one that joins later serve it whole.
func TestAReleaseIsPublishedWhileAReplicaDies(t *testing.T) {
	c := start(t, 3, "")
	keys, err := publish.Create(filepath.Join(t.TempDir(), "keys"), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	artefact := func(version string) (publish.Artefact, []byte) {
		t.Helper()
		program := make([]byte, 9<<20) // five parts
		_, _ = rand.Read(program)
		file := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(file, program, 0o600); err != nil {
			t.Fatal(err)
		}
		return publish.Artefact{File: file, Name: release.Agent, Version: version, OS: "linux", Architecture: "amd64", Channel: release.Stable}, program
	}
	first, old := artefact("1.0.0")
	through := &publisher{client: c.replicas[0].At(c.balancer.url())}
	if _, err := keys.Publish(c.within(2*time.Minute), through, []publish.Artefact{first}, nil); err != nil {
		t.Fatal(err)
	}
	m, err := through.Metadata(c.within(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	root := m.Files["1.root.json"]
	for _, d := range c.replicas {
		c.installs(d, root, "1.0.0", old)
	}

	dead := c.replicas[1]
	second, program := artefact("1.1.0")
	through = &publisher{client: c.replicas[0].At(c.balancer.url()), every: func(part int) {
		if part == 3 {
			if err := dead.Kill(); err != nil {
				t.Error(err)
			}
		}
	}}
	began := time.Now()
	if _, err := keys.Publish(c.within(2*time.Minute), through, []publish.Artefact{second}, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("9 MB were uploaded in %d parts and published in %s, a replica died meanwhile", through.parts, time.Since(began).Round(10*time.Millisecond))
	if err := dead.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.join("")
	for _, d := range c.replicas {
		c.installs(d, root, "1.1.0", program)
		c.installs(d, root, "1.0.0", old)
	}
	entries, err := c.replicas[3].Entries(c.within(time.Minute), "releases.publish", "")
	if err != nil || len(entries) != 2 {
		t.Errorf("the audit log has %d publications, %v; want 2", len(entries), err)
	}
}
