package install_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/server/install"
	"github.com/loopbackd/loopback/trust"
)

// releases is a repository that holds what the tests need, in memory.
type releases struct {
	targets []release.Target
	root    []byte
}

func (r *releases) Root() []byte { return r.root }

func (r *releases) Resolve(program, channel, version string) ([]release.Target, error) {
	var out []release.Target
	for _, t := range r.targets {
		if t.Name == program && (version == "" || t.Version == version) && (channel == "" || release.On(channel, t.Channel)) {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, fault.New(fault.NotFound, "release_not_found", "loopback-agent %s is not published here", version).WithHint("see what is: loopback release list")
	}
	return out, nil
}

func target(version, arch string, contents []byte) release.Target {
	sum := sha256.Sum256(contents)
	return release.Target{
		Path: release.TargetPath(release.Agent, version, "linux", arch), Name: release.Agent, Version: version, OS: "linux", Architecture: arch,
		Channel: release.Stable, Length: int64(len(contents)), SHA256: sum[:],
	}
}

// authority is a local CA with a certificate for 127.0.0.1.
func authority(t testing.TB) (ca []byte, server tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Loopback test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, parent, parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: parent.NotBefore, NotAfter: parent.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, parent, leafKey.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}
}

func newService(t testing.TB, url string, ca []byte, r install.Releases) *install.Service {
	t.Helper()
	s, err := install.New(install.Options{URL: url, CA: func() []byte { return ca }, Anchor: func() trust.AnchorHash { return trust.AnchorHash{1, 2, 3} }, Releases: r})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newScript is a script as it is served, for nobody in particular.
func newScript(t testing.TB) []byte {
	t.Helper()
	ca, _ := authority(t)
	r := &releases{[]release.Target{target("1.0.0", "amd64", []byte("a")), target("1.0.0", "arm64", []byte("b"))}, []byte(`{"signed":{"it's":"a root"}}`)}
	script, err := newService(t, "https://192.0.2.1:8443", ca, r).Script("", "")
	if err != nil {
		t.Fatal(err)
	}
	return script
}

func TestScriptIsCleanAndParsesEverywhere(t *testing.T) {
	script := newScript(t)
	for _, sh := range shells(t) {
		c := exec.Command(sh.argv[0], append(sh.argv[1:], "-n")...)
		c.Stdin = bytes.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", sh.name, err, out)
		}
	}
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("missing feature: shellcheck")
	}
	c := exec.Command("shellcheck", "--shell=sh", "-")
	c.Stdin = bytes.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

func TestServeHTTP(t *testing.T) {
	s := newService(t, "https://lb.example.com:8443", nil, &releases{targets: []release.Target{target("1.0.0", "amd64", []byte("a"))}, root: []byte("{}")})
	get := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	if w := get(http.MethodGet, "/install.sh"); w.Code != 200 || !strings.Contains(w.Body.String(), "url='https://lb.example.com:8443'") {
		t.Errorf("GET /install.sh: got %d and %.80q", w.Code, w.Body)
	}
	if w := get(http.MethodGet, "/install.sh/../x"); w.Code != http.StatusNotFound {
		t.Errorf("another path: got %d, wanted 404", w.Code)
	}
	if w := get(http.MethodPost, "/install.sh"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d, wanted 405", w.Code)
	}
	for _, query := range []string{"version=9.9.9", "channel=preview%27%3Breboot", "version=%24%28reboot%29", "channel=preview&version=1.0.0%0areboot"} {
		w := get(http.MethodGet, "/install.sh?"+query)
		if query == "channel=preview%27%3Breboot" && strings.Contains(w.Body.String(), "reboot") {
			t.Errorf("%s: the query is repeated in the script: %q", query, w.Body)
		}
		c := exec.Command("sh")
		c.Stdin, c.Env = w.Body, []string{"PATH=/nowhere"}
		out, err := c.CombinedOutput()
		if w.Code != 200 || err == nil || !strings.HasPrefix(string(out), "loopback: ") || strings.Contains(string(out), "not found\n") {
			t.Errorf("%s: got %d, and a script that ends with %v and says %q; wanted one that says why and fails", query, w.Code, err, out)
		}
	}
}

func TestCommand(t *testing.T) {
	pin := sha256.Sum256([]byte("key"))
	for _, c := range []struct {
		pin                    []byte
		channel, version, want string
	}{
		{nil, "", "", "curl -fsSL https://lb:8443/install.sh | sh"},
		{nil, "preview", "", "curl -fsSL 'https://lb:8443/install.sh?channel=preview' | sh"},
		{pin[:], "", "1.0.0+a", "curl -fsSLk --pinnedpubkey sha256//" + base64.StdEncoding.EncodeToString(pin[:]) + " 'https://lb:8443/install.sh?version=1.0.0%2Ba' | sh"},
	} {
		s, err := install.New(install.Options{URL: "https://lb:8443/", Pin: func() []byte { return c.pin }})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Command(c.channel, c.version); err != nil || got.Line != c.want {
			t.Errorf("got %q, %v; wanted %q", got.Line, err, c.want)
		}
		for _, bad := range [][2]string{{"nightly", ""}, {"", "$(id)"}, {"'", ""}} {
			if got, err := s.Command(bad[0], bad[1]); err == nil {
				t.Errorf("channel %q version %q: got %q, wanted a refusal", bad[0], bad[1], got.Line)
			}
		}
	}
	for _, url := range []string{"", "http://lb:8443", "https://", "https://lb/path", "https://lb:8443?x", "https://user@lb", "https://l'b", "https://lb$(id)", "https://lb\n:1"} {
		if _, err := install.New(install.Options{URL: url}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("URL %q: got %v, wanted it refused", url, err)
		}
	}
}

// The command that is shown works, and with another server's key in its place does not.
func TestPinnedCommandFetchesFromTheRightServerOnly(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("missing feature: curl")
	}
	ca, certificate := authority(t)
	var serving atomic.Pointer[install.Service]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serving.Load().ServeHTTP(w, r) }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	defer server.Close()
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	for _, right := range []bool{true, false} {
		if !right {
			pin[0] ^= 1
		}
		s, err := install.New(install.Options{
			URL: server.URL, CA: func() []byte { return ca }, Pin: func() []byte { return pin[:] }, Anchor: func() (a trust.AnchorHash) { return a }, Releases: &releases{},
		})
		if err != nil {
			t.Fatal(err)
		}
		serving.Store(s) // answers with a script that says that nothing is published, and fails
		command, err := s.Command("", "")
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command("sh", "-c", command.Line)
		c.Env = append(os.Environ(), "http_proxy=", "https_proxy=", "no_proxy=*")
		out, err := c.CombinedOutput()
		if got := strings.Contains(string(out), "is not published here"); got != right {
			t.Errorf("right key %v: got %v, %q", right, err, out)
		}
	}
}
