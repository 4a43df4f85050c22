package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

func (a *app) loginCommand() *cobra.Command {
	var name string
	var browser bool
	c := &cobra.Command{
		Use: "login URL", Short: "Sign in: in a browser, with an API key, or as first administrator with the code that loopbackd printed",
		Long: `Sign in to a control plane and remember it as a context.

With --browser it shows a URL and a code; somebody who is signed in to the console there, on this machine or any other, approves
it. The sign-in acts as they do and stays no longer than they may.

The API key or the bootstrap code is taken from LOOPBACK_BOOTSTRAP_CODE or LOOPBACK_API_KEY, or is asked for on standard
input. With --ca-file the CA is remembered too. --context names the context; else it has the name of the control plane.`,
		Example: "  loopback login https://cp.example.com:8443 --browser\n  loopback login https://cp.example.com:8443 --ca-file ca.crt",
		Args:    args("URL"),
		RunE:    func(c *cobra.Command, w []string) error { return a.login(c.Context(), w[0], name, browser) },
	}
	c.Flags().StringVar(&name, "name", "", "name of the administrator's key (default: administrator)")
	c.Flags().BoolVar(&browser, "browser", false, "sign in by a browser: it shows a URL and a code")
	return c
}

func (a *app) login(ctx context.Context, address, keyName string, browser bool) error {
	a.flags.url, a.signingIn = address, true
	s, err := a.settings()
	if err != nil {
		return err
	}
	if browser {
		if _, err := a.readConfig(); err != nil { // before somebody approves what cannot be remembered
			return err
		}
		return a.byBrowser(ctx, s)
	}
	word := first(a.Getenv("LOOPBACK_BOOTSTRAP_CODE"), a.Getenv("LOOPBACK_API_KEY"))
	if a.flags.keyFile != "" {
		word = s.APIKey
	}
	if word == "" {
		if word, err = a.ask(ctx, "API key or bootstrap code: ", true); ctx.Err() != nil {
			return err
		}
		if word == "" {
			return usage("no API key and no bootstrap code was given on standard input")
		}
	}
	if _, err := a.readConfig(); err != nil { // before a code is spent that works once
		return err
	}
	if s.APIKey = word; !strings.HasPrefix(word, "lbk_") {
		s.APIKey = ""
		if err := a.use(s); err != nil {
			return err
		}
		r, err := call(ctx, a.api, a.api.sessions.RedeemBootstrapCode, &pb.RedeemBootstrapCodeRequest{Code: word, Name: keyName})
		if err != nil {
			return err
		}
		s.APIKey = r.Secret
		if err := a.remember(ctx, s); err != nil {
			a.hint("the administrator's key was made but is not remembered; it is: %s", s.APIKey)
			return err
		}
		return nil
	}
	return a.remember(ctx, s)
}

// use makes the clients of an account.
func (a *app) use(s account) error {
	d, err := newAPI(s, a.Version)
	if err == nil {
		a.close()
		d.timeout, a.api = a.flags.timeout, d
	}
	return err
}

// remember asks who the account is and writes it down as the current context.
func (a *app) remember(ctx context.Context, s account) error {
	if err := a.use(s); err != nil {
		return err
	}
	me, err := call(ctx, a.api, a.api.sessions.WhoAmI, &pb.WhoAmIRequest{})
	if err != nil {
		return err
	}
	if s.Workspace == "" { // the only one is the one that is meant; who may not list them names one
		if r, err := call(ctx, a.api, a.api.workspaces.ListWorkspaces, &pb.ListWorkspacesRequest{Page: &pb.Page{Size: 2}}); err == nil && len(r.Items) == 1 {
			s.Workspace = r.Items[0].Name
		}
	}
	f, err := a.readConfig()
	if err != nil {
		return err
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	f.Current = a.flags.context
	if f.Current == "" {
		f.Current = u.Hostname()
		if old, ok := f.Contexts[f.Current]; ok && old.URL != s.URL {
			f.Current = u.Host // another control plane on the same machine
		}
	}
	if f.Contexts == nil {
		f.Contexts = map[string]account{}
	}
	f.Contexts[f.Current] = s
	if err := a.writeConfig(f); err != nil {
		return err
	}
	in := ""
	if s.Workspace != "" {
		in = ", workspace " + s.Workspace
	}
	a.hint("signed in to %s as %s; remembered as context %s%s", s.URL, me.Name, f.Current, in)
	return nil
}

func (a *app) contextCommand() *cobra.Command {
	completed := func(_ *cobra.Command, given []string, prefix string) (names []string, _ cobra.ShellCompDirective) {
		f, err := a.readConfig()
		for name := range f.Contexts {
			if err == nil && len(given) == 0 && strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	change := func(do func(f *file, name string)) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, w []string) error {
			f, err := a.readConfig()
			if err != nil {
				return err
			}
			if _, ok := f.Contexts[w[0]]; !ok {
				return fault.New(fault.NotFound, "context_not_found", "there is no context %q in %s", w[0], a.configPath()).WithHint("loopback context list shows those that there are")
			}
			do(&f, w[0])
			return a.writeConfig(f)
		}
	}
	return noun("context", "Contexts: the control planes that one is signed in to",
		&cobra.Command{Use: "list", Short: "List contexts; the current one is marked", Args: args(), RunE: func(*cobra.Command, []string) error { return a.listContexts() }},
		&cobra.Command{Use: "use NAME", Short: "Make a context the current one", Args: args("NAME"), ValidArgsFunction: completed, RunE: change(func(f *file, name string) {
			f.Current = name
			a.hint("the current context is %s: %s", name, f.Contexts[name].URL)
		})},
		&cobra.Command{Use: "delete NAME", Short: "Forget a context; its API key stays valid", Args: args("NAME"), ValidArgsFunction: completed, RunE: change(func(f *file, name string) {
			delete(f.Contexts, name)
			if f.Current == name {
				f.Current = ""
			}
			a.hint("forgot %s; its API key works until it is revoked: loopback apikey revoke", name)
		})},
	)
}

// listContexts shows the file's contexts, without their keys.
func (a *app) listContexts() error {
	f, err := a.readConfig()
	if err != nil {
		return err
	}
	type item struct {
		Name      string `json:"name"`
		URL       string `json:"url"`
		Workspace string `json:"workspace"`
		Current   bool   `json:"current"`
	}
	items := []item{}
	for _, name := range slices.Sorted(maps.Keys(f.Contexts)) {
		c := f.Contexts[name]
		items = append(items, item{name, c.URL, c.Workspace, name == f.Current})
	}
	switch {
	case a.flags.output != "table":
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(map[string]any{"items": items}); err != nil {
			return fmt.Errorf("encode the contexts: %w", err)
		}
		return a.printJSON(bytes.TrimSpace(b.Bytes()))
	case len(items) == 0:
		a.hint("there are no contexts; make one: loopback login URL")
		return nil
	}
	return table(a, items, []column[item]{
		{"NAME", func(i item) string { return i.Name }},
		{"CURRENT", func(i item) string { return yes(i.Current) }},
		{"URL", func(i item) string { return i.URL }},
		{"WORKSPACE", func(i item) string { return i.Workspace }},
	})
}
