package release_test

import (
	"testing"

	"github.com/loopbackd/loopback/release"
)

func TestVersionsAreOrderedByPrecedence(t *testing.T) {
	ordered := []string{
		"", "0.0.1-0", "0.0.1", "0.1.0", "1.0.0-1", "1.0.0-2", "1.0.0-11", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta",
		"1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0",
		"99999999999999999999.0.0", "100000000000000000000.0.0",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			got, want := release.CompareVersions(a, b), i-j
			if got < 0 != (want < 0) || got > 0 != (want > 0) {
				t.Errorf("CompareVersions(%q, %q) = %d, wanted the sign of %d", a, b, got, want)
			}
		}
	}
	if got := release.CompareVersions("1.0.0+a", "1.0.0+b"); got != 0 {
		t.Errorf("build metadata counted: got %d, wanted 0", got)
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.0.0-a.1", "1.0.0-a.01", "1.0.0")
	f.Add("1.0.0--", "1.0.0-.", "x")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := release.CompareVersions(a, b), release.CompareVersions(b, a)
		if (ab < 0) != (ba > 0) || (ab == 0) != (ba == 0) {
			t.Fatalf("%q and %q: %d one way, %d the other", a, b, ab, ba)
		}
		if ab <= 0 && release.CompareVersions(b, c) <= 0 && release.CompareVersions(a, c) > 0 {
			t.Fatalf("not transitive: %q <= %q <= %q", a, b, c)
		}
	})
}

func TestPreviewHostsAreOfferedStableReleasesToo(t *testing.T) {
	target := func(version, channel, arch string) release.Target {
		return release.Target{Name: release.Agent, Version: version, Channel: channel, OS: "linux", Architecture: arch}
	}
	all := []release.Target{
		target("1.0.0", release.Stable, "amd64"), target("1.1.0-rc.1", release.Preview, "amd64"),
		target("1.1.0", release.Stable, "amd64"), target("1.2.0-rc.1", release.Preview, "arm64"),
	}
	for _, c := range []struct{ channel, arch, want string }{
		{release.Stable, "amd64", "1.1.0"}, {release.Preview, "amd64", "1.1.0"},
		{release.Preview, "arm64", "1.2.0-rc.1"}, {release.Stable, "arm64", ""}, {"other", "amd64", ""},
	} {
		got, ok := release.Newest(all, release.Agent, c.channel, "linux", c.arch)
		if got.Version != c.want || ok != (c.want != "") {
			t.Errorf("newest on %s for %s: got %q, wanted %q", c.channel, c.arch, got.Version, c.want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	sum := make([]byte, 32)
	f.Add("loopback-agent/1.0.0/linux-amd64/loopback-agent", int64(1), `{"name":"loopback-agent","version":"1.0.0","os":"linux","arch":"amd64","channel":"stable"}`)
	f.Add("../x", int64(-1), `{}`)
	f.Fuzz(func(t *testing.T, path string, length int64, custom string) {
		got, err := release.ParseTarget(path, length, sum, []byte(custom))
		if err != nil {
			return
		}
		again, err := got.Custom()
		if err != nil {
			t.Fatal(err)
		}
		back, err := release.ParseTarget(path, length, sum, again)
		if err != nil || back.Version != got.Version || back.Name != got.Name {
			t.Fatalf("does not survive a round: got %+v, %v, wanted %+v", back, err, got)
		}
	})
}
