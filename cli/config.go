package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/loopbackd/loopback/fault"
)

// file is the configuration file: named contexts, and which one is meant when none is named.
type file struct {
	Current  string             `yaml:"current,omitempty"`
	Contexts map[string]account `yaml:"contexts,omitempty"`
}

// account is one control plane and who one is there.
type account struct {
	URL       string `yaml:"url"`
	APIKey    string `yaml:"apiKey,omitempty"`
	CA        string `yaml:"ca,omitempty"` // PEM
	Workspace string `yaml:"workspace,omitempty"`
}

func (a *app) configPath() string { return filepath.Join(a.home(), "config.yaml") }

func (a *app) readConfig() (file, error) {
	var f file
	b, err := os.ReadFile(a.configPath())
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = yaml.Unmarshal(b, &f)
	}
	if err != nil {
		return f, fault.New(fault.Invalid, "config_unreadable", "the configuration file %s cannot be read: %s", a.configPath(), oneLine(err.Error())).
			WithHint("mend it, or remove it and sign in again: loopback login")
	}
	return f, nil
}

// writeConfig replaces the file whole; it holds a key, so only its owner may read it.
func (a *app) writeConfig(f file) error {
	b, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.home(), 0o700); err != nil {
		return fault.New(fault.Precondition, "config_unwritable", "the configuration folder cannot be made: %s", err)
	}
	next := a.configPath() + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return fault.New(fault.Precondition, "config_unwritable", "the configuration file cannot be written: %s", err)
	}
	return os.Rename(next, a.configPath())
}

// settings are what a call needs, from flags, environment and file in this order.
func (a *app) settings() (account, error) {
	f, err := a.readConfig()
	if err != nil {
		return account{}, err
	}
	name := first(a.flags.context, a.Getenv("LOOPBACK_CONTEXT"), f.Current)
	s, ok := f.Contexts[name]
	if !ok && first(a.flags.context, a.Getenv("LOOPBACK_CONTEXT")) != "" {
		return s, usage("there is no context %q in %s", name, a.configPath())
	}
	if url := first(a.flags.url, a.Getenv("LOOPBACK_URL")); url != "" && url != s.URL {
		// Another control plane: neither its key nor its CA is the context's.
		s = account{URL: url, Workspace: s.Workspace}
	}
	s.URL = strings.TrimRight(s.URL, "/")
	s.APIKey = first(a.Getenv("LOOPBACK_API_KEY"), s.APIKey)
	s.Workspace = first(a.flags.workspace, a.Getenv("LOOPBACK_WORKSPACE"), s.Workspace)
	if a.flags.keyFile != "" {
		b, err := os.ReadFile(a.flags.keyFile)
		if err != nil {
			return s, usage("the API key file cannot be read: %s", err)
		}
		s.APIKey = strings.TrimSpace(string(b))
	}
	if name := first(a.flags.caFile, a.Getenv("LOOPBACK_CA_FILE")); name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return s, usage("the CA file cannot be read: %s", err)
		}
		s.CA = string(b)
	}
	if s.URL == "" {
		return s, fault.New(fault.Unauthenticated, "not_signed_in", "no control plane is named").
			WithHint("run: loopback login URL, or set LOOPBACK_URL and LOOPBACK_API_KEY")
	}
	return s, nil
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
