package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/loopbackd/loopback/durable"
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
	if err := durable.WriteFile(a.configPath(), b, 0o600); err != nil {
		return fault.New(fault.Precondition, "config_unwritable", "the configuration file cannot be written: %s", err)
	}
	return nil
}

// settings are what a call needs, from flags, environment and file in this order.
func (a *app) settings() (account, error) {
	f, err := a.readConfig()
	if err != nil {
		return account{}, err
	}
	getenv := a.Getenv
	name := first(a.flags.context, a.Getenv("LOOPBACK_CONTEXT"), f.Current)
	s, ok := f.Contexts[name]
	switch named := first(a.flags.context, a.Getenv("LOOPBACK_CONTEXT")); {
	case !ok && named != "" && !a.signingIn:
		return s, usageError{fmt.Errorf("there is no context %q in %s", name, a.configPath()), "loopback context list shows those that there are"}
	case a.flags.context != "" && !a.signingIn:
		// The flag means the whole context. A variable's key must not go to another control plane than its own.
		getenv = func(string) string { return "" }
	}
	if at := strings.TrimRight(first(a.flags.url, getenv("LOOPBACK_URL")), "/"); at != "" && at != s.URL {
		// Another control plane: nothing of the context's holds there, its key least of all.
		s = account{URL: at}
	}
	s.APIKey = first(getenv("LOOPBACK_API_KEY"), s.APIKey)
	s.Workspace = first(a.flags.workspace, getenv("LOOPBACK_WORKSPACE"), s.Workspace)
	if a.flags.keyFile != "" {
		b, err := os.ReadFile(a.flags.keyFile)
		if err != nil {
			return s, usage("the API key file cannot be read: %s", err)
		}
		s.APIKey = strings.TrimSpace(string(b))
	}
	if name := first(a.flags.caFile, getenv("LOOPBACK_CA_FILE")); name != "" {
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
	if u, err := url.Parse(s.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return s, usageError{fmt.Errorf("the control plane's address is %q, not https://HOST[:PORT]", s.URL), "see --url and LOOPBACK_URL"}
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
