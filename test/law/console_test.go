package law

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rawForms are the forms of the console that do nothing which a command or a call of the API could do as well.
var rawForms = map[string]string{
	"ui/form.tsx":                "is the form that all others are made of",
	"app/session.tsx":            "signs in, before there is anybody to call the API as",
	"app/invite.tsx":             "makes a passkey, which only a browser can",
	"pages/device.tsx":           "opens an address",
	"pages/access/questions.tsx": "opens an address; what it asks is beside the answer",
}

// Every form of the console shows the same act as a command, for curl and as JSON: Form and FormDialog cannot be had without.
func TestEveryFormOfTheConsoleShowsItsActElsewhere(t *testing.T) {
	root := filepath.Join("..", "..", "web", "src")
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".tsx") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if !strings.Contains(string(text), "<form") {
			return nil
		}
		found[name] = true
		if rawForms[name] == "" {
			t.Errorf("web/src/%s has a <form> of its own: use Form or FormDialog of ui/form.tsx, which show the same act elsewhere", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range rawForms {
		if !found[name] {
			t.Errorf("web/src/%s has no <form>: take it out of this list", name)
		}
	}
}
