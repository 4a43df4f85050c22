// Package law keeps what docs/design.md promises about the tree: who may import whom, and that every package says what
// it is.
package law

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/loopbackd/loopback/"

// nouns are the packages that say what a thing is. They know the standard library and each other, nothing else.
var nouns = []string{
	"access", "apikey", "audit", "command", "durable", "exec", "fault", "file", "grant", "guest", "host", "id", "invitation", "label", "ledger", "lock", "operation", "passkey", "policy", "principal", "provider", "query", "release", "replica",
	"review", "secret", "section", "sessionreview", "settings", "signin", "sink", "stream", "tenant", "token", "trust", "webhook", "witness",
	"recording", "shell",
}

// A rule says what the packages under a folder may import of this module; the longest matching folder decides. What is
// listed is a folder and all beneath it; "nouns" stands for those above. Third-party libraries are allowed unless noted.
var rules = map[string]struct {
	may []string
}{
	"wire":            {may: []string{"nouns", "api"}},
	"release/publish": {may: []string{"nouns"}},
	"release/sbom":    {may: []string{"nouns"}},
	"release/mirror":  {may: []string{"nouns"}},
	"release/pack":    {may: []string{"nouns", "agent/packaged"}}, // packs what the agent's installer finds again

	"server/backup":  {may: []string{"nouns", "server/storage"}},                                                                    // copies and renews what storage keeps
	"server/doctor":  {may: []string{"nouns", "server/config", "server/backup", "server/storage", "server/keys", "server/replica"}}, // looks at what all of them need
	"server/config":  {may: []string{"nouns"}},
	"server/console": {may: []string{"nouns"}},
	"server/tracing": {may: []string{"nouns"}},
	"server/keys":    {may: []string{"nouns"}},
	"server/feed":    {may: []string{"nouns"}},
	"server/recent":  {may: []string{}},
	"server/bus":     {may: []string{"nouns"}},
	"server/storage": {may: []string{"nouns", "server/feed", "server/storage"}},
	"server/link":    {may: []string{"nouns", "api", "wire"}},
	"server/stream":  {may: []string{"nouns", "api", "wire"}},

	"server/storage/storagetest": {may: []string{"nouns", "server/feed", "server/storage", "test/port"}},
	"server/link/linktest":       {may: []string{"nouns", "server/link"}},                       // the rest of a control plane, in memory
	"server/sink/sinktest":       {may: []string{"nouns"}},                                      // receivers
	"server/fleet":               {may: []string{"nouns", "api", "server/feed", "server/link"}}, // implements the hub's seam and encodes its frames
	"server/rpc":                 {may: []string{"nouns", "api", "server"}},
	"server":                     {may: []string{"nouns", "server/feed", "server/recent"}}, // every slice: nouns, the order of changes, and what was read lately

	// A module of the agent makes the machine match a section: it knows nouns and what is stored on the host, not who sent it.
	"agent":          {may: []string{"nouns", "agent/state", "agent/config", "agent/packaged"}},
	"agent/link":     {may: []string{"nouns", "api", "wire", "agent/state", "agent/config"}},
	"agent/doctor":   {may: []string{"nouns", "agent/state", "agent/config", "agent/status", "agent/link"}}, // tries what the link would
	"agent/diagnose": {may: []string{"nouns", "agent/doctor", "agent/status"}},                              // gathers what both say
	"agent/command":  {may: []string{"nouns", "agent"}},                                                     // assembles
	"cli":            {may: []string{"nouns", "api", "wire", "release/publish", "release/pack", "release/sbom", "release/mirror"}},
	"api":            {may: []string{"api"}},
	"test":           {may: []string{""}},
	"bench":          {may: []string{""}},
	"docs":           {may: []string{"api", "cli"}},
	"tools":          {may: []string{"api"}},
	"web":            {may: []string{}}, // embeds what was built
	"cmd/loopback":   {may: []string{"cli"}},
	"cmd/loopbackd":  {may: []string{"server", "nouns"}},
}

// exact are packages whose rule holds for themselves only, not for what lies beneath.
var exact = map[string][]string{
	"server":             {"nouns", "api", "wire", "server", "web"}, // assembles
	"agent":              {"nouns", "agent"},
	"cmd/loopback-agent": {"agent", "nouns"},
}

type pkg struct {
	dir     string
	imports map[string]bool // of non-test files
	doc     bool
}

// load parses every package of the module that go.mod at the root covers.
func load(t *testing.T) []pkg {
	t.Helper()
	root := filepath.Join("..", "..")
	found := map[string]*pkg{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == "bin") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && rel != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") && !strings.HasPrefix(rel, "test/") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(rel))
		if found[dir] == nil {
			found[dir] = &pkg{dir: dir, imports: map[string]bool{}}
		}
		for _, i := range f.Imports {
			found[dir].imports[strings.Trim(i.Path.Value, `"`)] = true
		}
		found[dir].doc = found[dir].doc || hasDoc(f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []pkg
	for _, p := range found {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b pkg) int { return strings.Compare(a.dir, b.dir) })
	return out
}

func hasDoc(f *ast.File) bool { return f.Doc != nil && len(strings.Fields(f.Doc.Text())) >= 5 }

func TestImports(t *testing.T) {
	for _, p := range load(t) {
		if slices.Contains(nouns, p.dir) {
			for i := range p.imports {
				rel, ours := strings.CutPrefix(i, module)
				switch {
				case ours && !slices.Contains(nouns, rel):
					t.Errorf("%s is a noun and imports %s; nouns import nouns only", p.dir, rel)
				case !ours && strings.Contains(strings.SplitN(i, "/", 2)[0], "."):
					t.Errorf("%s is a noun and imports %s; nouns use the standard library only", p.dir, i)
				}
			}
			continue
		}
		may, ok := allowed(p.dir)
		if !ok {
			t.Errorf("%s: no rule in test/law says what it may import", p.dir)
			continue
		}
		for i := range p.imports {
			rel, ours := strings.CutPrefix(i, module)
			if !ours || within(rel, p.dir) {
				continue
			}
			if !slices.ContainsFunc(may, func(m string) bool {
				return m == "" || m == "nouns" && slices.Contains(nouns, rel) || within(rel, m)
			}) {
				t.Errorf("%s imports %s; it may import %v", p.dir, rel, may)
			}
		}
	}
}

func allowed(dir string) ([]string, bool) {
	if may, ok := exact[dir]; ok {
		return may, true
	}
	for d := dir; d != "."; d = path.Dir(d) {
		if r, ok := rules[d]; ok {
			return r.may, true
		}
	}
	return nil, false
}

func within(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range load(t) {
		if !p.doc && !strings.HasPrefix(p.dir, "api/") {
			t.Errorf("%s has no package comment", p.dir)
		}
	}
}

// An actor without rules is for tests: what ships never makes one. Nor does it decide on a host without saying which: locks would not hold.
func TestOnlyTestsDecideByGrantsAlone(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		switch {
		case d.IsDir() && rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || rel == "test" || rel == "bench"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") || filepath.ToSlash(rel) == "access/access.go":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if i, ok := n.(*ast.Ident); ok && i.Name == "GrantsAlone" {
				t.Errorf("%s makes an actor that no rules bound", rel)
			}
			if i, ok := n.(*ast.Ident); ok && i.Name == "DecideHost" && !strings.HasPrefix(filepath.ToSlash(rel), "tools/") {
				t.Errorf("%s decides on whichever host, which locks of one host do not keep out of: DecideOn", rel)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
