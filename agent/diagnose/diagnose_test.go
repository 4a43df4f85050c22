package diagnose

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsAreTakenOut(t *testing.T) {
	const s = "hunter2hunter2"
	for _, text := range []string{
		"proxy: http://user:" + s + "@proxy.example:3128",
		"proxy: http://" + s + "@proxy.example:3128",
		"HTTPS_PROXY=https://user:" + s + "@10.0.0.1",
		`token: ` + s, `token: "` + s + ` ` + s + `"`, `"secret":"` + s + `"`, `'password' = '` + s + `'`, "LOOPBACK_TOKEN=" + s, "db_password=" + s,
		"api-key: " + s, "Authorization: Bearer " + s, "authorization: Basic " + s, "level=INFO msg=x authorization=" + s + " next=1", "got Bearer " + s + " from",
		"Cookie: " + s, "PrivateKey = " + s,
		"-----BEGIN OPENSSH PRIVATE KEY-----\n" + s + "\n-----END OPENSSH PRIVATE KEY-----",
		"-----BEGIN PRIVATE KEY-----\n" + s,
		"lbt_" + s + "0123456789012345678901234567890", "lbk_" + s + "0123456789012345678901234567890", "ghp_" + s + "01234567890123456789012345",
	} {
		got := string(Redact([]byte("before\n" + text + "\nafter")))
		if strings.Contains(got, s) || !strings.Contains(got, "before") {
			t.Errorf("%q\nbecame %q", text, got)
		}
	}
	for _, text := range []string{"endpoints: [https://loopback.example:8443]", "level=INFO msg=\"the agent starts\" version=1.2.3", "2: eth0: <UP> mtu 1500", "10.0.0.0/8 via 10.0.0.1", `{"revision": 3, "state": "applied"}`} {
		if got := string(Redact([]byte(text))); got != text {
			t.Errorf("%q\nbecame %q", text, got)
		}
	}
}

// A bundle comes of a host on which next to nothing is there, without what must not be in it, and says what is missing.
func TestABundleComesOfAHostInAnyState(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(config, []byte("endpoints: [https://127.0.0.1:1]\nproxy: http://user:hunter2@127.0.0.1:2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Bundle(t.Context(), Options{Version: "1.2.3", ConfigPath: config, StateDir: dir, Socket: filepath.Join(dir, "none")})
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got[h.Name] = string(text); strings.Contains(string(text), "hunter2") {
			t.Errorf("%s holds the proxy's password", h.Name)
		}
	}
	for _, name := range []string{"doctor.json", "agent.yaml", "network.txt", "system.txt", "journal.txt", "manifest.json"} {
		if got[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
	var m struct{ Parts []made }
	if err := json.Unmarshal([]byte(got["manifest.json"]), &m); err != nil || len(m.Parts) != 6 || m.Parts[0].Name != "status.json" || m.Parts[0].Error == "" {
		t.Errorf("got %+v, %v; wanted the status said to be missing", m, err)
	}
}

func TestAPartIsBounded(t *testing.T) {
	b := &bounded{most: 10}
	for range 5 {
		if n, err := b.Write([]byte("1234567")); n != 7 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	}
	if b.Len() != 11 {
		t.Errorf("it holds %d bytes", b.Len())
	}
}
