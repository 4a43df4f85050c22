package openapi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/rpc/openapi"
)

func get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	server := httptest.NewServer(openapi.Handler())
	t.Cleanup(server.Close)
	res, err := http.Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: got %s and %v, want 200", path, res.Status, err)
	}
	return res, string(body)
}

func TestTheDescriptionHasEveryMethodWithItsPermission(t *testing.T) {
	_, text := get(t, "/openapi.yaml")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Permission string `yaml:"x-permission"`
		}
		Components struct{ Schemas map[string]any }
	}
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("the description is not YAML: %v", err)
	}
	methods := rpc.Methods()
	if len(doc.Paths) != len(methods) {
		t.Errorf("got %d paths, want the API's %d methods", len(doc.Paths), len(methods))
	}
	for _, m := range methods {
		if got := doc.Paths[m.Procedure]["post"].Permission; got != string(m.Permission) {
			t.Errorf("%s: got permission %q, want %q", m.Procedure, got, m.Permission)
		}
	}
	for _, ref := range regexp.MustCompile(`"#/components/schemas/(\w+)"`).FindAllStringSubmatch(text, -1) {
		if _, ok := doc.Components.Schemas[ref[1]]; !ok {
			t.Errorf("schema %s is referred to and not there", ref[1])
		}
	}
}

func TestThePageNeedsNobodyElse(t *testing.T) {
	res, page := get(t, "/docs")
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("got policy %q, want one that allows nothing by default", csp)
	}
	for _, bad := range []string{"<script", "http://", "https://", " style=", "javascript:"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	for _, m := range rpc.Methods() {
		if !strings.Contains(page, "POST /api"+m.Procedure+"<") {
			t.Errorf("the page lacks %s", m.Procedure)
		}
	}
	ids := map[string]bool{}
	for _, id := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if ids[id[1]] {
			t.Errorf("the id %s occurs twice", id[1])
		}
		ids[id[1]] = true
	}
	for _, link := range regexp.MustCompile(`href="#([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if !ids[link[1]] {
			t.Errorf("a link leads to %s, which is not there", link[1])
		}
	}
	get(t, "/docs.css")
}
