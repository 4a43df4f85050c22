package storage_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// While replicas are upgraded one by one, those of the version before go on with the tables of the one after: they write
// rows without the new columns and read what they always read. So a migration adds, and takes nothing away; what nobody
// needs any more goes when no version that can run beside knows it, by an exception here that says so.
func TestMigrationsOnlyAdd(t *testing.T) {
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d migrations, %v", len(files), err)
	}
	comment := regexp.MustCompile(`--[^\n]*`)
	takes := regexp.MustCompile(`(?i)\b(DROP|RENAME|TRUNCATE|DELETE\s+FROM|ALTER\s+COLUMN|SET\s+NOT\s+NULL|ADD\s+CONSTRAINT)\b`)
	adds := regexp.MustCompile(`(?is)^ALTER\s+TABLE\s+\w+\s+ADD\s+COLUMN\s+\w+\s+(.*)$`)
	made := regexp.MustCompile(`(?i)^CREATE\s+TABLE\s+(\w+)`)
	unique := regexp.MustCompile(`(?i)^CREATE\s+UNIQUE\s+INDEX\s+\w+\s+ON\s+(\w+)`)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		here := map[string]bool{} // tables that nobody had before
		for _, text := range strings.Split(comment.ReplaceAllString(string(b), ""), ";") {
			text = strings.TrimSpace(text)
			if m := made.FindStringSubmatch(text); m != nil {
				here[m[1]] = true
			}
			if what := takes.FindString(text); what != "" {
				t.Errorf("%s takes something away (%s): %s", file, what, text)
			}
			if m := adds.FindStringSubmatch(text); m != nil && strings.Contains(strings.ToUpper(m[1]), "NOT NULL") && !strings.Contains(strings.ToUpper(m[1]), "DEFAULT") {
				t.Errorf("%s adds a column that rows of the version before do not have: give it a DEFAULT: %s", file, text)
			}
			if m := unique.FindStringSubmatch(text); m != nil && !here[m[1]] {
				t.Errorf("%s makes rows unique that the version before may write twice: %s", file, text)
			}
		}
	}
}
