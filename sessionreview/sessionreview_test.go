package sessionreview

import (
	"fmt"
	"iter"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/recording"
)

func TestNormalFormsKeepWhatIsDoneAndNothingSecret(t *testing.T) {
	for command, want := range map[string]string{
		"systemctl restart postgres":                              "systemctl restart …",
		"/usr/bin/systemctl restart redis --no-block":             "systemctl restart … --no-block",
		"PGPASSWORD=hunter2 psql -h db-7":                         "psql -h …",
		"mysql --password=hunter2 -u root":                        "mysql --password -u …",
		"cat /var/log/syslog | grep -i error":                     "cat … | grep -i …",
		"ls":                                                      "ls",
		"curl -H 'Authorization: Bearer abc' https://x/y?token=z": "curl -H …",
		"docker ps -a":                                            "docker ps -a",
		"docker rm web1":                                          "docker rm …",
		"":                                                        "",
	} {
		got := Normal(command)
		if got != want {
			t.Errorf("%q: got %q, want %q", command, got, want)
		}
	}
}

func shown(text ...string) iter.Seq2[recording.Event, error] {
	return func(yield func(recording.Event, error) bool) {
		for _, t := range text {
			if !yield(recording.Event{Kind: recording.Output, Data: []byte(t)}, nil) {
				return
			}
		}
	}
}

func TestCommandsAreReadOffTheScreen(t *testing.T) {
	for name, c := range map[string]struct {
		shown []string
		want  map[string]int64
	}{
		"at a prompt, in pieces":       {[]string{"root@db-7:~# sy", "stemctl restart a\r\n", "root@db-7:~# systemctl restart b\r\n"}, map[string]int64{"systemctl restart …": 2}},
		"as a title and colours go":    {[]string{"\x1b]0;root@db-7: ~\x07\x1b[01;32mroot@db-7\x1b[00m:\x1b[01;34m~\x1b[00m# df -h\r\n"}, map[string]int64{"df -h": 1}},
		"corrected":                    {[]string{"root@db-7:~# lx\b \bs -l\r\n"}, map[string]int64{"ls -l": 1}},
		"from the history":             {[]string{"root@db-7:~# cat /etc/passwd\r\x1b[13Cuptime\x1b[K\r\n"}, map[string]int64{"uptime": 1}},
		"of Red Hat":                   {[]string{"[ada@web-1 ~]$ uptime\r\n"}, map[string]int64{"uptime": 1}},
		"what a program writes is not": {[]string{"error: user@host# is no prompt of ours: \r\n$ nothing\r\nroot@db-7:~# \r\n"}, map[string]int64{}},
	} {
		got, err := Commands(shown(c.shown...))
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, c.want)
		}
	}
}

func FuzzScreen(f *testing.F) {
	f.Add([]byte("root@db-7:~# ls\r\n\x1b[5P\x1b[3@\x1b[K\x1b]0;x\x1b\\"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Commands(shown(string(b), string(b)))
	})
}

func TestADrawTakesItsShareAndNobodyTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, share := rapid.IntRange(0, 300).Draw(t, "sessions"), rapid.IntRange(0, 100).Draw(t, "share")
		var population []string
		for i := range n {
			population = append(population, fmt.Sprint("ses_", i))
		}
		secret := [32]byte{byte(rapid.Int().Draw(t, "secret"))}
		seed := Seed("2026-10", secret, [32]byte{1})
		drawn := Drawn(seed, population, share)
		distinct := map[string]bool{}
		for _, d := range drawn {
			distinct[d] = true
		}
		if len(distinct) != len(drawn) || len(drawn) < n*share/100 || len(drawn) > n*share/100+1 || n > 0 && share > 0 && len(drawn) == 0 {
			t.Fatalf("%d of %d are drawn, %d distinct, for %d %%", len(drawn), n, len(distinct), share)
		}
		if seed == Seed("2026-11", secret, [32]byte{1}) || seed == Seed("2026-10", secret, [32]byte{2}) {
			t.Fatal("month and root do not count")
		}
	})
}

func TestThePolicyOverTheLeastDecides(t *testing.T) {
	policies := []Policy{{Share: 1}, {Scope: access.Scope{Organisation: "o", Project: "p"}, Share: 3}, {Scope: access.Scope{Organisation: "o"}, Share: 2}}
	for share, at := range map[int]access.Scope{1: {Organisation: "x"}, 2: {Organisation: "o", Project: "q", Workspace: "w"}, 3: {Organisation: "o", Project: "p", Workspace: "w"}} {
		if got, ok := Nearest(policies, at); !ok || got.Share != share {
			t.Errorf("%v: got %+v, want share %d", at, got, share)
		}
	}
	if _, ok := Nearest(nil, access.Scope{}); ok {
		t.Error("no policy decides")
	}
	p := Policy{Roles: []string{"rol_1"}}
	if !p.Wants("rol_1") || p.Wants("rol_2") || !p.Wants("") || (Policy{}).Wants("") || !(Policy{Roles: []string{AnyRole}}).Wants("rol_2") {
		t.Error("what a policy wants is not what it says")
	}
}
