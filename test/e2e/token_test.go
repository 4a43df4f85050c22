package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/token"
)

// secretPart is what of a token's string nobody may see: behind the public id and the anchor's hash, before the checksum.
func secretPart(secret string) string {
	body := secret[strings.LastIndexByte(secret, '_')+1:]
	return body[26:58]
}

// A token passes through an installation without being seen by anybody else, and is nowhere afterwards.
func TestTokenIsNowhereToBeSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-secrecy", nil, "secret")
	m := w.machines["secret"]
	must(t, m, "touch /root/before")
	token := w.Mint(t, "--description", "secrecy")
	needle := []byte(secretPart(token.Secret))

	stop := make(chan struct{})
	var watching sync.WaitGroup
	var samples, own int
	var seen []string
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			found, inside := sampleProcesses(needle)
			samples++
			own += inside
			seen = append(seen, found...)
		}
	})
	r := install(t, m, token.InstallCommand, token.Secret, "--verbose")
	close(stop)
	watching.Wait()
	if r.ExitCode != 0 {
		t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	t.Logf("%d looks at all processes; the token was in the environment of the installation's own %d times", samples, own)
	if len(seen) > 0 {
		t.Errorf("the token was seen in: %s", strings.Join(seen, "; "))
	}
	if samples < 10 || own == 0 {
		t.Errorf("%d looks, and the token in the installer's environment %d times: the looking proves nothing", samples, own)
	}

	if strings.Contains(r.Stdout+r.Stderr, string(needle)) {
		t.Error("the installer printed the token")
	}
	if found := must(t, m, "journalctl --no-pager --all --output=export | grep -ac "+string(needle)+" || true"); found != "0" {
		t.Errorf("lines of the journal with the token: got %s, wanted 0", found)
	}
	// Every file that changed since, readable by others or not.
	changed := must(t, m, "find / /run /tmp -xdev -type f -newer /root/before -not -path '/proc/*' -not -path '/sys/*' | sort -u")
	if !strings.Contains(changed, "/etc/loopback/agent.yaml") || !strings.Contains(changed, "/var/lib/loopback/") {
		t.Errorf("files that changed: got %s, wanted those of the agent among them", changed)
	}
	if found := runInput(t, m, changed, "xargs -d '\\n' grep -alF "+string(needle)).Stdout; found != "" {
		t.Errorf("files with the token: %s", found)
	}
	if strings.Contains(w.Log(t), string(needle)) {
		t.Error("the token is in the control plane's log")
	}
	files := 0
	err := filepath.WalkDir(w.DataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, needle) {
			t.Errorf("the token is in %s", path)
		}
		files++
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("looked at %d files of the data folder: %v", files, err)
	}
}

// sampleProcesses looks at the arguments and the environment of every process. It returns where the needle was, and how
// often it was where it has to be: in the environment of a command that the lab runs in a machine, the installation.
func sampleProcesses(needle []byte) (found []string, inside int) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return []string{err.Error()}, 0
	}
	for _, at := range entries {
		arguments, _ := os.ReadFile(at + "/cmdline") // a process that has ended is none to look at
		if bytes.Contains(arguments, needle) {
			found = append(found, "arguments: "+strings.ReplaceAll(string(arguments), "\x00", " "))
		}
		environment, _ := os.ReadFile(at + "/environ")
		if bytes.Contains(environment, needle) {
			group, _ := os.ReadFile(at + "/cgroup")
			if bytes.Contains(group, []byte("/lab-exec/")) || len(group) == 0 {
				inside++
			} else {
				found = append(found, "environment: "+strings.ReplaceAll(string(arguments), "\x00", " "))
			}
		}
	}
	return found, inside
}

// Each token that does not let in ends the installation with the reason and what to do, and a fresh one finishes it.
func TestRefusedTokensSayWhyAndAFreshOneFinishes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-refused", nil, "refused", "other")
	m := w.machines["refused"]

	soon := w.Mint(t, "--ttl", "1m")
	minted := time.Now()
	exhausted := w.Mint(t)
	if r := install(t, w.machines["other"], exhausted.InstallCommand, exhausted.Secret); r.ExitCode != 0 {
		t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	revoked := w.Mint(t)
	w.Must(t, "token", "revoke", revoked.Token.ID, "--reason", "test")
	good := w.Mint(t)
	parsed, err := token.ParseSecret(good.Secret)
	if err != nil {
		t.Fatal(err)
	}
	command := good.InstallCommand

	refused := []struct {
		name, secret string
		words        []string
		exit         int
		reason, hint string
	}{
		{name: "malformed", secret: good.Secret[:len(good.Secret)-1], exit: 3, reason: token.ErrMalformed.Message, hint: "copy the token again"},
		{name: "nothing", secret: "", exit: 2, reason: "there is no token", hint: "loopback token mint"},
		{name: "on the command line of the script", words: []string{"--token=" + good.Secret}, exit: 2, reason: "can be read by everybody", hint: "LOOPBACK_TOKEN"},
		{name: "on the command line of the agent", words: []string{"--name", good.Secret}, exit: 2, reason: "can be read by everybody", hint: "LOOPBACK_TOKEN"},
		{name: "of another deployment", secret: token.NewSecret(id.New("tok", minted), [token.AnchorSize]byte{1, 2, 3}).Reveal(), exit: 2,
			reason: "minted on another control plane", hint: "use the install command of the control plane that it was minted on"},
		{name: "unknown", secret: token.NewSecret(id.New("tok", minted), parsed.Anchor).Reveal(), exit: 3, reason: token.ErrUnknown.Message, hint: "loopback token mint"},
		{name: "with another secret", secret: token.NewSecret(good.Token.ID, parsed.Anchor).Reveal(), exit: 3, reason: token.ErrUnknown.Message, hint: "loopback token mint"},
		{name: "a trap", secret: w.Mint(t, "--honeytoken").Secret, exit: 3, reason: token.ErrUnknown.Message, hint: "loopback token mint"},
		{name: "exhausted", secret: exhausted.Secret, exit: 3, reason: token.ErrExhausted.Message, hint: "--max-uses"},
		{name: "revoked", secret: revoked.Secret, exit: 3, reason: token.ErrRevoked.Message, hint: "loopback audit list"},
		{name: "from another network", secret: w.Mint(t, "--allow-network", "192.0.2.0/24").Secret, exit: 4, reason: token.ErrNetwork.Message, hint: "--allow-network"},
		{name: "for other host names", secret: w.Mint(t, "--host-name", "web-*").Secret, exit: 4, reason: token.ErrHostName.Message, hint: "--host-name"},
		{name: "expired", secret: soon.Secret, exit: 3, reason: token.ErrExpired.Message, hint: "loopback token mint"},
	}
	for _, r := range refused {
		t.Run(r.name, func(t *testing.T) {
			if r.name == "expired" {
				<-time.After(time.Until(minted.Add(61 * time.Second))) // the shortest life that a token can have
			}
			got := install(t, m, command, r.secret, r.words...)
			said := got.Stdout + got.Stderr
			if got.ExitCode != r.exit || !strings.Contains(said, r.reason) || !strings.Contains(hintOf(said), r.hint) {
				t.Errorf("got exit code %d, wanted %d with %q and a hint with %q\n%s", got.ExitCode, r.exit, r.reason, r.hint, said)
			}
			if s := secretPart(good.Secret); r.secret != "" && (strings.Contains(said, secretPart(r.secret)) || strings.Contains(said, s)) {
				t.Errorf("the token was printed:\n%s", said)
			}
			if active := run(t, m, "systemctl is-active loopback-agent").Stdout; strings.TrimSpace(active) == "active" {
				t.Error("the agent runs")
			}
		})
	}
	hosts, err := w.Hosts(t.Context())
	if err != nil || len(hosts) != 1 {
		t.Errorf("hosts: got %v, %v, wanted only the other one", hosts, err)
	}
	if log := w.Must(t, "audit", "list", "-o", "json"); strings.Count(log, `"refused"`) < 7 {
		t.Errorf("refusals in the audit log: got %d, wanted at least one for each token that was refused there", strings.Count(log, `"refused"`))
	}

	t.Run("a fresh one finishes", func(t *testing.T) {
		start := time.Now()
		if r := install(t, m, command, good.Secret); r.ExitCode != 0 {
			t.Errorf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		w.AwaitState(t, "refused", "managed", 5*time.Second)
		t.Logf("finished in %v", time.Since(start).Round(time.Millisecond))
	})

	t.Run("from a file, and the name that a token demands", func(t *testing.T) {
		m := w.machines["other"]
		must(t, m, "loopback-agent uninstall --purge")
		mint := w.Mint(t, "--host-name", "web-*", "--allow-network", m.Address().String()+"/32", "--host-label", "env=test")
		if err := m.PutFile(t.Context(), "/root/token", strings.NewReader(mint.Secret), 0o600); err != nil {
			t.Fatal(err)
		}
		r := install(t, m, mint.InstallCommand, "", "--token-file /root/token --name web-7 --labels role=web")
		if r.ExitCode != 0 {
			t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		host, _ := w.AwaitState(t, "web-7", "managed", 5*time.Second)
		if host.Labels["env"] != "test" || host.Labels["role"] != "web" {
			t.Errorf("labels: got %v, wanted env=test and role=web", host.Labels)
		}
	})
}

// hintOf is the line that says what to do.
func hintOf(said string) string {
	for line := range strings.Lines(said) {
		if hint, ok := strings.CutPrefix(line, "hint: "); ok {
			return hint
		}
	}
	return ""
}
