package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) providerCommand() *cobra.Command {
	type T = *pb.Provider
	show := func(p T) error {
		var groups []string
		for _, theirs := range slices.Sorted(maps.Keys(p.Groups)) {
			groups = append(groups, theirs+"="+p.Groups[theirs])
		}
		return a.print(p, [2]string{"id", p.Id}, [2]string{"name", p.Name}, [2]string{"issuer", p.Issuer}, [2]string{"client id", p.ClientId},
			[2]string{"client secret", yes(p.HasSecret)}, [2]string{"return URL", p.ReturnUrl}, [2]string{"scopes", "openid " + strings.Join(p.Scopes, " ")},
			[2]string{"disabled", yes(p.Disabled)}, [2]string{"makes users", yes(p.CreateUsers)}, [2]string{"of domains", strings.Join(p.Domains, ",")},
			[2]string{"in", first(p.OrganisationId, "the deployment")}, [2]string{"groups claim", p.GroupsClaim}, [2]string{"groups", strings.Join(groups, ",")},
			[2]string{"trusted for the second factor", yes(p.TrustMfa)}, [2]string{"created", stamp(p.CreatedAt)})
	}
	return noun("provider", "Identity providers: where people sign in (OpenID Connect)",
		a.providerCreate(), a.providerUpdate(show),
		&cobra.Command{Use: "list", Short: "List providers", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]T, string, error) {
				r, err := call(ctx, s, s.providers.ListProviders, &pb.ListProvidersRequest{})
				return r.GetItems(), "", err
			}, "there are no providers that you may see",
				column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"ISSUER", T.GetIssuer}, column[T]{"MAKES USERS", func(p T) string { return yes(p.CreateUsers) }},
				column[T]{"DISABLED", func(p T) string { return yes(p.Disabled) }})
		})},
		&cobra.Command{Use: "show PROVIDER", Short: "Show a provider, without its secret", Args: args("PROVIDER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			p, err := call(ctx, s, s.providers.GetProvider, &pb.GetProviderRequest{IdentityProvider: w[0]})
			if err != nil {
				return err
			}
			return show(p)
		})},
		&cobra.Command{Use: "delete PROVIDER", Short: "Remove a provider, and forget who people were there", Args: args("PROVIDER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "Remove provider %s? Nobody signs in by it any more.", w[0]); err != nil {
				return err
			}
			_, err := call(ctx, s, s.providers.DeleteProvider, &pb.DeleteProviderRequest{IdentityProvider: w[0]})
			return err
		})},
		&cobra.Command{Use: "link PROVIDER SUBJECT USER", Short: "Say who a provider's subject (the sub claim) is here", Args: args("PROVIDER", "SUBJECT", "USER"),
			RunE: a.with(func(ctx context.Context, s *api, w []string) error {
				i, err := call(ctx, s, s.providers.LinkIdentity, &pb.LinkIdentityRequest{IdentityProvider: w[0], Subject: w[1], User: w[2]})
				if err != nil {
					return err
				}
				return a.print(i, [2]string{"id", i.Id}, [2]string{"subject", i.Subject}, [2]string{"user", i.UserId})
			})},
		&cobra.Command{Use: "unlink PROVIDER SUBJECT", Short: "Forget who a provider's subject is here", Args: args("PROVIDER", "SUBJECT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			_, err := call(ctx, s, s.providers.DeleteIdentity, &pb.DeleteIdentityRequest{IdentityProvider: w[0], Subject: w[1]})
			return err
		})},
		&cobra.Command{Use: "identities PROVIDER", Short: "List who signed in by a provider or was linked", Args: args("PROVIDER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			type I = *pb.Identity
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]I, string, error) {
				r, err := call(ctx, s, s.providers.GetIdentities, &pb.GetIdentitiesRequest{IdentityProvider: w[0], Page: p})
				return r.GetItems(), r.GetNextPageToken(), err
			}, "nobody signed in by it yet",
				column[I]{"SUBJECT", I.GetSubject}, column[I]{"USER", I.GetUserId}, column[I]{"E-MAIL", I.GetEmail}, column[I]{"LAST USED", func(i I) string { return ago(i.LastUsedAt) }})
		})},
	)
}

// providerFlags are the flags of what can be set. fill reads those that were given.
func providerFlags(c *cobra.Command) (fill func() (*pb.ProviderFields, error)) {
	f := c.Flags()
	issuer := f.String("issuer", "", "`URL` of the issuer, as the provider writes it in its tokens")
	client := f.String("client-id", "", "`ID` of the client that was registered at the provider")
	secret := f.String("secret-file", "", "`FILE` with the client's secret; empty: a public client")
	ca := f.String("provider-ca", "", "PEM `FILE` of who signed the provider's certificate (default: the system's)")
	scopes := f.StringSlice("scope", nil, "`SCOPE` to ask for besides openid (repeatable; default: profile, email)")
	org := f.String("org", "", "`ORGANISATION` that the users it makes belong to (default: the deployment)")
	makes := f.Bool("create-users", false, "people who are not known yet become users")
	domains := f.StringSlice("domain", nil, "they need a verified address of this `DOMAIN` (repeatable)")
	claim := f.String("groups-claim", "", "`CLAIM` of the ID token that has the provider's groups")
	groups := f.StringToString("group", nil, "THEIRS=`OURS`: who is in a group of the provider is in ours (repeatable)")
	trust := f.Bool("trust-mfa", false, "believe the provider when it says that there was a second factor")
	values := f.StringSlice("mfa-value", nil, "`VALUE` of amr or acr that says so (repeatable; default: mfa, hwk, phr, phrh)")
	disabled := f.Bool("disabled", false, "let nobody in by it")
	return func() (*pb.ProviderFields, error) {
		q := &pb.ProviderFields{Scopes: *scopes}
		text := func(flag string, v *string, to **string) {
			if f.Changed(flag) {
				*to = v
			}
		}
		truth := func(flag string, v *bool, to **bool) {
			if f.Changed(flag) {
				*to = v
			}
		}
		text("issuer", issuer, &q.Issuer)
		text("client-id", client, &q.ClientId)
		text("org", org, &q.Organisation)
		text("groups-claim", claim, &q.GroupsClaim)
		truth("create-users", makes, &q.CreateUsers)
		truth("trust-mfa", trust, &q.TrustMfa)
		truth("disabled", disabled, &q.Disabled)
		if f.Changed("domain") {
			q.Domains = &pb.ProviderDomains{Domains: *domains}
		}
		if f.Changed("group") {
			q.Groups = &pb.ProviderGroups{Groups: *groups}
		}
		if f.Changed("mfa-value") {
			q.MfaValues = &pb.ProviderMfaValues{MfaValues: *values}
		}
		for flag, to := range map[string]struct {
			name string
			to   **string
		}{"secret-file": {*secret, &q.Secret}, "provider-ca": {*ca, &q.Ca}} {
			if !f.Changed(flag) {
				continue
			}
			text := ""
			if to.name != "" {
				b, err := os.ReadFile(to.name)
				if err != nil {
					return nil, usage("the file cannot be read: %s", err)
				}
				text = strings.TrimSpace(string(b))
			}
			*to.to = &text
		}
		return q, nil
	}
}

func (a *app) providerCreate() *cobra.Command {
	c := &cobra.Command{
		Use: "create NAME", Short: "Let people sign in by a provider", Args: args("NAME"),
		Example: "  loopback provider create corp --issuer https://login.example.com/realms/corp --client-id loopback --secret-file secret --create-users --domain example.com",
	}
	fill := providerFlags(c)
	c.RunE = a.with(func(ctx context.Context, s *api, w []string) error {
		f, err := fill()
		if err != nil {
			return err
		}
		p, err := call(ctx, s, s.providers.CreateProvider, &pb.CreateProviderRequest{Name: w[0], Fields: f})
		if err != nil {
			return err
		}
		if a.flags.output != "table" {
			return a.print(p)
		}
		fmt.Fprintln(a.Out, p.Id)
		a.hint("tell the provider to send people back to %s", p.ReturnUrl)
		return nil
	})
	return c
}

func (a *app) providerUpdate(show func(*pb.Provider) error) *cobra.Command {
	c := &cobra.Command{Use: "update PROVIDER", Short: "Change a provider; what is not given stays as it is", Args: args("PROVIDER"),
		Example: "  loopback provider update corp --disabled\n  loopback provider update corp --secret-file new-secret"}
	fill := providerFlags(c)
	c.RunE = a.with(func(ctx context.Context, s *api, w []string) error {
		f, err := fill()
		if err != nil {
			return err
		}
		p, err := call(ctx, s, s.providers.UpdateProvider, &pb.UpdateProviderRequest{IdentityProvider: w[0], Fields: f})
		if err != nil {
			return err
		}
		return show(p)
	})
	return c
}
