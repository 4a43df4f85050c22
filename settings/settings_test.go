package settings

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
)

func TestASectionReadsBackAsItsSettings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := time.Duration(rapid.IntRange(1, 50).Draw(t, "min")) * time.Second
		want := Settings{
			HeartbeatMin: low, HeartbeatMax: low + time.Duration(rapid.IntRange(0, int((MaxHeartbeat-low)/time.Second)).Draw(t, "more"))*time.Second,
			LogLevel: rapid.SampledFrom(LogLevels).Draw(t, "level"),
			Modules:  rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,4}`), 0, 4, rapid.ID).Draw(t, "modules"),
			Labels:   label.Set(rapid.MapOf(rapid.StringMatching(`[a-z]{1,3}`), rapid.StringMatching(`[a-z]{0,3}`)).Draw(t, "labels")),
		}
		s, err := want.Section(section.Revision{Epoch: 1, Number: 7})
		if err != nil {
			t.Fatal(err)
		}
		got, err := FromSection(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Section(section.Revision{Epoch: 1, Number: 8})
		if err != nil || again.Digest != s.Digest {
			t.Fatalf("%+v came back as %+v (%v)", want, got, err)
		}
	})
}

func TestUnsetFieldsTakeTheDefaults(t *testing.T) {
	if got, want := (Settings{}).Defaults(), (Settings{HeartbeatMin: 5 * time.Second, HeartbeatMax: DefaultHeartbeat, LogLevel: "info"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestEveryWrongFieldIsNamed(t *testing.T) {
	err := Settings{HeartbeatMin: time.Millisecond, HeartbeatMax: time.Hour, LogLevel: "loud", Modules: []string{"UP", ""}, Labels: label.Set{"": "x"}}.Validate()
	if e := fault.Of(err); e.Code != "settings_invalid" || len(e.Violations) < 6 {
		t.Errorf("got %v", err)
	}
	if err := (Settings{HeartbeatMin: 30 * time.Second, HeartbeatMax: 10 * time.Second}).Validate(); err == nil {
		t.Error("a minimum above the maximum was accepted")
	}
}

// A newer control plane may say more than this agent knows.
func TestUnknownItemsAreIgnored(t *testing.T) {
	s, err := section.New(SectionName, section.Revision{Epoch: 1, Number: 1}, []section.Item{{Key: "future", Value: []byte("?")}, {Key: "log", Value: []byte(`"warn"`)}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromSection(s)
	if err != nil || got.LogLevel != "warn" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzFromSection(f *testing.F) {
	f.Add("log", []byte(`"info"`))
	f.Add("heartbeat", []byte(`{"minMs":-1}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		s, err := section.New(SectionName, section.Revision{}, []section.Item{{Key: key, Value: value}})
		if err != nil {
			return
		}
		if got, err := FromSection(s); err == nil && got.Validate() != nil {
			t.Errorf("%+v was read and is not valid", got)
		}
	})
}
