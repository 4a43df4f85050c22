package tenant

import (
	"fmt"
	"strings"
)

// Count is what a place still holds and what therefore keeps it from being deleted.
type Count struct {
	Projects   int64
	Workspaces int64
	Hosts      int64 // that are not removed
	Tokens     int64 // that are active
}

// String says it in words: "2 projects and 1 host"; empty for nothing.
func (c Count) String() string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{c.Projects, "project"}, {c.Workspaces, "workspace"}, {c.Hosts, "host"}, {c.Tokens, "active token"}} {
		switch {
		case p.n == 1:
			parts = append(parts, "1 "+p.what)
		case p.n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", p.n, p.what))
		}
	}
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}
