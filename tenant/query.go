package tenant

import "github.com/loopbackd/loopback/access"

// Page asks for a part of a list. A list is stable under paging: a page starts after the last item of the one before,
// so that what is made or removed meanwhile neither repeats nor hides another item.
type Page struct {
	Size  int    // DefaultPage where 0, at most MaxPage
	Token string // opaque; empty for the first page
}

// Sizes of a page.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Limit is the size within its bounds.
func (p Page) Limit() int {
	if p.Size <= 0 {
		return DefaultPage
	}
	return min(p.Size, MaxPage)
}

// Query selects organisations, projects or workspaces, ordered by name.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Within   access.Scope
	Name     string // exactly; empty: any
	Page     Page
}
