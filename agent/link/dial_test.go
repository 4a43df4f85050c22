package link_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/trust"
)

// When a control plane returns, all its agents come at once: those that were there before spare it a signature.
func TestTheOuterSessionIsTakenUpAgain(t *testing.T) {
	var resumed []bool
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.TLS.DidResume)
		http.Error(w, "come back later", http.StatusServiceUnavailable)
	}))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	dial := link.Dialler(config.Config{CAFile: ca, Transport: "websocket"})
	for range 2 {
		if conn, err := dial(t.Context(), s.URL, []trust.AnchorHash{{}}, 0); err == nil {
			t.Errorf("got %v, want no connection", conn)
		}
	}
	if want := []bool{false, true}; !slices.Equal(resumed, want) {
		t.Errorf("got connections resumed %v, want %v", resumed, want)
	}
}
