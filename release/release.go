// Package release is the catalogue of agents and modules that hosts may run.
//
// Artefacts are TUF targets. Root and targets keys are held outside the control plane, by whoever publishes; the control
// plane holds only the keys of snapshot and timestamp, and so can say what is current but cannot vouch for a program.
// A target's path is "NAME/VERSION/OS-ARCH/NAME"; what is known of it beyond length and hashes (version, channel,
// platform) is in the target's custom fields, under the same signature.
package release

import (
	"fmt"
	"regexp"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over releases.
const (
	Read    access.Permission = "releases.read"
	Publish access.Permission = "releases.publish"
)

// Channels a release may be on.
const (
	Stable  = "stable"
	Preview = "preview"
)

// Agent is the name of the core program.
const Agent = "loopback-agent"

// Target is one program for one platform.
type Target struct {
	Path         string `json:"-"`    // in the repository of targets
	Name         string `json:"name"` // "loopback-agent"
	Version      string `json:"version"`
	OS           string `json:"os"`   // as Go names it
	Architecture string `json:"arch"` // as Go names it
	Channel      string `json:"channel"`
	Length       int64  `json:"-"`
	SHA256       []byte `json:"-"`
}

// TargetPath is where a program lies.
func TargetPath(name, version, os, arch string) string {
	return fmt.Sprintf("%s/%s/%s-%s/%s", name, version, os, arch, name)
}

// Release is one version of one program on a channel.
type Release struct {
	tenant.Meta // Name is "loopback-agent 1.2.3"
	Program     string
	Version     string
	Channel     string
	PublishedAt time.Time
	Targets     []Target
}

var version = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?$`)

// ValidVersion tells whether v is a semantic version without a leading "v".
func ValidVersion(v string) bool { return len(v) <= 128 && version.MatchString(v) }
