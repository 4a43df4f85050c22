// Package settings is the first section of every host: how its agent behaves.
//
// The effective settings are those of the workspace with those of the host on top. They are compiled into a section of
// four items (heartbeat, log, labels, modules), each small JSON, so that a changed label does not send the rest again.
package settings

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
)

// Permissions over settings.
const (
	Read access.Permission = "settings.read"
	Set  access.Permission = "settings.set"
)

// SectionName of the section.
const SectionName = "settings"

// Bounds of a heartbeat interval. Middleboxes cut idle connections at 60 s.
const (
	MinHeartbeat     = time.Second
	MaxHeartbeat     = 50 * time.Second
	DefaultHeartbeat = 20 * time.Second
)

// Settings of an agent. The zero value of a field takes the default.
type Settings struct {
	HeartbeatMin time.Duration // bounds within which the server paces
	HeartbeatMax time.Duration
	LogLevel     string   // "debug", "info", "warn", "error"
	Modules      []string // optional modules to run
	Labels       label.Set
}

// Defaults fills what is not set.
func (s Settings) Defaults() Settings {
	if s.HeartbeatMin == 0 {
		s.HeartbeatMin = 5 * time.Second
	}
	if s.HeartbeatMax == 0 {
		s.HeartbeatMax = max(DefaultHeartbeat, s.HeartbeatMin)
	}
	if s.LogLevel == "" {
		s.LogLevel = "info"
	}
	return s
}

// Over is s with what other sets on top of it; labels are merged by key. Where the bounds of a heartbeat come from two
// places and cross, the upper bound holds for both.
func (s Settings) Over(other Settings) Settings {
	if other.HeartbeatMin != 0 {
		s.HeartbeatMin = other.HeartbeatMin
	}
	if other.HeartbeatMax != 0 {
		s.HeartbeatMax = other.HeartbeatMax
	}
	if s.HeartbeatMax != 0 {
		s.HeartbeatMin = min(s.HeartbeatMin, s.HeartbeatMax)
	}
	if other.LogLevel != "" {
		s.LogLevel = other.LogLevel
	}
	if other.Modules != nil {
		s.Modules = other.Modules
	}
	if len(s.Labels)+len(other.Labels) == 0 {
		return s
	}
	merged := label.Set{}
	for k, v := range s.Labels {
		merged[k] = v
	}
	for k, v := range other.Labels {
		merged[k] = v
	}
	s.Labels = merged
	return s
}

var moduleName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// LogLevels in order of severity.
var LogLevels = []string{"debug", "info", "warn", "error"}

// Validate says everything that is wrong.
func (s Settings) Validate() error {
	var c fault.Check
	bound := func(field string, d time.Duration) {
		c.That(d == 0 || d >= MinHeartbeat && d <= MaxHeartbeat, field, "is %s; allowed are %s to %s", d, MinHeartbeat, MaxHeartbeat)
	}
	bound("heartbeatMin", s.HeartbeatMin)
	bound("heartbeatMax", s.HeartbeatMax)
	d := s.Defaults()
	c.That(d.HeartbeatMin <= d.HeartbeatMax, "heartbeatMin", "is %s, more than heartbeatMax (%s)", d.HeartbeatMin, d.HeartbeatMax)
	c.That(slices.Contains(LogLevels, d.LogLevel), "logLevel", "is %q; allowed are debug, info, warn, error", s.LogLevel)
	c.That(len(s.Modules) <= 64, "modules", "has %d entries; at most 64 are allowed", len(s.Modules))
	for i, m := range s.Modules {
		c.That(moduleName.MatchString(m), fmt.Sprintf("modules[%d]", i), "is not a module name: lower-case letters, digits and '-'")
	}
	s.Labels.Validate(&c, "labels")
	return c.Err("settings_invalid", "the settings are not valid")
}

type heartbeat struct {
	MinMilliseconds int64 `json:"minMs"`
	MaxMilliseconds int64 `json:"maxMs"`
}

// Section compiles the settings. The same settings give the same digest.
func (s Settings) Section(rev section.Revision) (section.Section, error) {
	s = s.Defaults()
	if s.Labels == nil {
		s.Labels = label.Set{}
	}
	modules := slices.Clone(s.Modules)
	slices.Sort(modules)
	items := make([]section.Item, 0, 4)
	for _, part := range []struct {
		key   string
		value any
	}{
		{"heartbeat", heartbeat{s.HeartbeatMin.Milliseconds(), s.HeartbeatMax.Milliseconds()}},
		{"labels", s.Labels},
		{"log", s.LogLevel},
		{"modules", append([]string{}, slices.Compact(modules)...)},
	} {
		b, err := json.Marshal(part.value)
		if err != nil {
			return section.Section{}, err
		}
		items = append(items, section.Item{Key: part.key, Value: b})
	}
	return section.New(SectionName, rev, items)
}

// FromSection reads settings back. Keys that it does not know are ignored: a newer control plane may say more.
func FromSection(s section.Section) (Settings, error) {
	var out Settings
	var hb heartbeat
	for key, into := range map[string]any{"heartbeat": &hb, "labels": &out.Labels, "log": &out.LogLevel, "modules": &out.Modules} {
		b, ok := s.Get(key)
		if !ok {
			continue
		}
		if err := json.Unmarshal(b, into); err != nil {
			return Settings{}, fault.New(fault.Invalid, "settings_invalid", "the settings item %q cannot be read", key).WithCause(err)
		}
	}
	out.HeartbeatMin = time.Duration(hb.MinMilliseconds) * time.Millisecond
	out.HeartbeatMax = time.Duration(hb.MaxMilliseconds) * time.Millisecond
	return out, out.Validate()
}

// Stored are settings as they were set at one place.
type Stored struct {
	Settings Settings
	Revision int64 // position of the change that set them; 0: never set
}
