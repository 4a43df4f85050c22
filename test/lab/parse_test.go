package lab

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestArchivesPreferOurSuite(t *testing.T) {
	for _, each := range []struct {
		name  string
		texts []aptText
		want  []string
	}{
		{"none", nil, nil},
		{"one-line", []aptText{{text: `
# deb http://off.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] https://tools.example/apt stable main # theirs
deb	http://tab.example/ bookworm main
deb http://mirror.example/debian/ bookworm main contrib
deb cdrom:[Debian]/ bookworm main
`}}, []string{"http://tab.example", "http://mirror.example/debian", "https://tools.example/apt"}},
		{"paragraphs", []aptText{{paragraphs: true, text: `Types: deb deb-src
# a comment between fields
URIs: http://a.example/debian
 http://b.example/debian
Suites: bookworm bookworm-updates
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
`}}, []string{"http://a.example/debian", "http://b.example/debian", "http://security.example/debian-security"}},
		{"files in order, our suite first", []aptText{
			{text: "deb http://new.example/debian trixie main"},
			{text: "deb http://ours.example/debian bookworm main"},
		}, []string{"http://ours.example/debian", "http://new.example/debian"}},
	} {
		t.Run(each.name, func(t *testing.T) {
			if got := archives(each.texts); !reflect.DeepEqual(got, each.want) {
				t.Errorf("got %q, want %q", got, each.want)
			}
		})
	}
}

func FuzzArchives(f *testing.F) {
	f.Add("deb [a=b] http://x.example/debian bookworm main\n", false)
	f.Add("Types: deb\nURIs: http://x.example\n http://y.example\nSuites: bookworm\n", true)
	f.Add(" leading blank\n: no name\nTypes", true)
	f.Fuzz(func(t *testing.T, text string, paragraphs bool) {
		for _, got := range archives([]aptText{{text: text, paragraphs: paragraphs}}) {
			if !strings.HasPrefix(got, "http://") && !strings.HasPrefix(got, "https://") {
				t.Errorf("got %q, which is not an http address", got)
			}
			if strings.HasPrefix(got, "-") || strings.ContainsAny(got, " \t\n") {
				t.Errorf("got %q, which a command line would misread", got)
			}
		}
	})
}

func TestMountsAreRead(t *testing.T) {
	got := parseMounts(`22 1 0:21 / /proc rw,relatime - proc proc rw
25 1 0:24 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,name=systemd
26 1 0:25 / /with\040blank\134s rw - tmpfs tmpfs rw
broken
27 1 0:26 / /short rw -
`)
	want := []mount{
		{"/proc", "proc", "rw"},
		{"/sys/fs/cgroup/systemd", "cgroup", "rw,name=systemd"},
		{`/with blank\s`, "tmpfs", "rw"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(parseMounts(string(text))), strings.Count(string(text), "\n"); got != want {
		t.Errorf("this computer's mounts: got %d, want %d, one a line", got, want)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add(`22 1 0:21 / /a\040b rw,relatime - proc proc rw`)
	f.Add(`22 1 0:21 / /a\ rw - x y z`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, got := range parseMounts(text) {
			if got.at == "" || got.kind == "" {
				t.Errorf("got %q from %q, want place and kind", got, text)
			}
		}
	})
}
