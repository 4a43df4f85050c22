package rpc

import (
	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/command"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Permission as it is declared: what holding it allows.
type Permission struct {
	Name   access.Permission
	Allows string
}

// Permissions are all that a method may need, in the order of the documentation. docs/reference/permissions.md is made
// from them and from the methods.
var Permissions = []Permission{
	{tenant.OrganisationsCreate, "create organisations"},
	{tenant.OrganisationsRead, "see organisations"},
	{tenant.OrganisationsDelete, "delete organisations that hold nothing"},
	{tenant.ProjectsCreate, "create projects"},
	{tenant.ProjectsRead, "see projects"},
	{tenant.ProjectsDelete, "delete projects that hold nothing"},
	{tenant.WorkspacesCreate, "create workspaces"},
	{tenant.WorkspacesRead, "see workspaces"},
	{tenant.WorkspacesUpdate, "change a workspace's description and token policy"},
	{tenant.WorkspacesDelete, "delete workspaces that hold nothing"},
	{token.Mint, "mint enrolment tokens"},
	{token.List, "see enrolment tokens, without their secrets"},
	{token.Revoke, "revoke enrolment tokens, with the hosts that they enrolled if asked to"},
	{token.Rotate, "replace enrolment tokens by successors with the same bounds"},
	{host.Read, "see hosts and watch them"},
	{host.Label, "set and remove labels of hosts"},
	{host.Add, "add machines without an agent"},
	{host.Move, "move hosts between workspaces (needed in both)"},
	{host.Approve, "let pending hosts in"},
	{host.Quarantine, "quarantine hosts"},
	{host.Release, "release hosts from quarantine"},
	{host.Split, "make hosts of their own of machines that hold copies of one identity"},
	{host.Drop, "shut machines out that hold a copy of a host's identity"},
	{host.Settle, "say who wins where a host is ahead of the control plane"},
	{host.RestartModule, "restart modules of hosts' agents"},
	{host.Remove, "remove hosts for good"},
	{settings.Read, "see how agents are set to behave"},
	{settings.Set, "change how agents behave"},
	{exec.Start, "run commands on hosts; needs a reason and is given for a time only"},
	{exec.Read, "see what commands were run, and what they wrote"},
	{exec.Cancel, "end commands that others started"},
	{file.Put, "put files on hosts; tier 0: named in a role and given for a time only; needs a reason"},
	{file.Get, "get files from hosts, as root reads them; tier 0; needs a reason"},
	{file.Read, "see which files were put and got, where, by whom and why"},
	{file.Cancel, "end transfers of files that others began"},
	{file.Diagnose, "have hosts tell what they know of themselves, without secrets"},
	{command.Save, "save commands, which others approve"},
	{command.Approve, "approve commands that others saved; tier 0: named in a role and given for a time only"},
	{command.Read, "see saved commands"},
	{command.Delete, "delete saved commands"},
	{command.Run, "run saved commands that were approved, on hosts where one holds it"},
	{command.RunOne, "see the checks that are built in, and run them on hosts where one holds it"},
	{operation.Read, "see operations and wait for them"},
	{operation.Cancel, "cancel operations"},
	{release.Read, "see the catalogue of releases and the install command"},
	{release.Publish, "publish releases that were signed elsewhere"},
	{apikey.Create, "create API keys that hold no more than one's own"},
	{apikey.Read, "see API keys, without their secrets"},
	{apikey.Revoke, "revoke API keys"},
	{audit.Read, "read the audit log"},
	{principal.UsersCreate, "create users"},
	{principal.UsersRead, "see users"},
	{principal.UsersUpdate, "change, disable and enable users"},
	{principal.UsersDelete, "delete users with their bindings and API keys"},
	{principal.GroupsCreate, "create groups"},
	{principal.GroupsRead, "see groups and who is in them"},
	{principal.GroupsUpdate, "put users into groups and take them out, as far as one holds what that gives"},
	{principal.GroupsDelete, "delete groups with their bindings"},
	{principal.ServiceAccountsCreate, "create service accounts"},
	{principal.ServiceAccountsRead, "see service accounts"},
	{principal.ServiceAccountsUpdate, "change, disable and enable service accounts"},
	{principal.ServiceAccountsDelete, "delete service accounts with their bindings and API keys"},
	{policy.RolesCreate, "create roles"},
	{policy.RolesRead, "see roles"},
	{policy.RolesUpdate, "change what roles give, as far as one holds it"},
	{policy.RolesDelete, "delete roles that no binding names"},
	{policy.BindingsCreate, "give roles, as far as one holds what they give, and deny them"},
	{policy.BindingsRead, "see bindings: who was given what"},
	{policy.BindingsDelete, "end bindings"},
	{policy.Explain, "ask who may do what and why, and what a change would do"},
	{grant.Request, "ask for the roles that are offered, withdraw what one asked for, give back what one got"},
	{grant.Read, "see who asked for what, who approved it and what became of it; one's own is seen by whoever holds it anywhere"},
	{grant.Approve, "approve what others ask for, as far as one holds it, and deny it"},
	{grant.Revoke, "end what was granted before its time"},
	{grant.PoliciesCreate, "offer roles to be asked for, as far as one holds what they give"},
	{grant.PoliciesRead, "see what can be asked for, and on which terms"},
	{grant.PoliciesDelete, "offer roles no longer"},
	{review.Create, "have standing access reviewed"},
	{review.Read, "see what is or was under review, who answered and why"},
	{review.Answer, "keep what others hold under a review, or revoke it; never one's own"},
	{review.Cancel, "end reviews before their time"},
	{lock.Create, "lock people, groups, service accounts, roles and hosts out, at once"},
	{lock.Read, "see what is and was locked, by whom and why"},
	{lock.Lift, "lift locks, but for those that keep oneself out"},
	{shell.Open, "open shells on hosts; tier 0: named in a role and given for a time only"},
	{shell.Join, "type into shells that others opened; tier 0"},
	{shell.Watch, "watch shells as they happen"},
	{shell.Kill, "end shells; one's own are ended by whoever holds it anywhere"},
	{shell.Read, "see who had a shell where, when and why"},
	{shell.Replay, "replay and export the recordings of shells"},
	{shell.Retain, "set how long the recordings of shells are kept"},
	{shell.Hold, "put recordings of shells on hold, so that nothing deletes them, and end that"},
	{shell.Forget, "delete the recordings of shells on purpose, for good; tier 0: named in a role and given for a time only; needs a reason"},
	{guest.Invite, "invite guests to shells that one may watch: people without an account, who look on for a time"},
	{guest.Read, "see who was invited to a shell as a guest, and when they came"},
	{guest.Revoke, "end guests' links; those of one's own guests and sessions are ended by whoever holds it anywhere"},
	{sessionreview.Set, "say which recorded shells somebody else has to look at"},
	{sessionreview.Read, "see which recorded shells wait to be looked at, and the verdicts"},
	{sessionreview.Answer, "give a verdict on a shell that one took no part in; to look at it takes shell_sessions.replay"},
	{audit.Verify, "see the audit log's checkpoints, and proofs that it only grew; wherever it is held"},
	{audit.Retain, "set how long entries of the audit log keep their bodies, and put them on hold"},
	{sink.Create, "send the audit log somewhere"},
	{sink.Read, "see where the audit log is sent to, and how far each receiver is"},
	{sink.Update, "pause and resume sinks, send them the past again, and resend or dismiss what was refused"},
	{sink.Delete, "remove sinks"},
	{replica.Read, "see the replicas of the control plane; held over the whole deployment"},
	{provider.Create, "let people sign in by a provider; takes everything over the whole deployment besides"},
	{provider.Read, "see identity providers, without their secrets, and whom they let in"},
	{provider.Update, "change providers, and say who their subjects are here; takes everything besides"},
	{provider.Delete, "remove providers; takes everything besides"},
	{signin.Read, "see who is signed in, how and from where"},
	{signin.Revoke, "end other people's sign-ins"},
	{invitation.Create, "invite users who hold no more than oneself: links by which they come in"},
	{invitation.Read, "see invitations, without their strings"},
	{invitation.Revoke, "take invitations back"},
	{passkey.Read, "see other people's passkeys: how they are called and when they were used"},
	{passkey.Revoke, "remove other people's passkeys"},
	{access.SelfRead, "see who one is; whoever is signed in holds it"},
	{access.SelfManage, "manage one's own sign-ins and passkeys; who signed in as themselves holds it, API keys never do"},
	{access.SignInBegin, "sign in; everybody holds it"},
	{access.BootstrapRedeem, "trade the bootstrap code for the first administrator's key; everybody holds it, the code is the credential"},
}

// Grantable are the names that a grant may hold, besides access.All.
func Grantable() []access.Permission {
	var out []access.Permission
	for _, p := range Permissions {
		if !access.Built(p.Name) {
			out = append(out, p.Name)
		}
	}
	return out
}

// Catalogue is what rules may name.
func Catalogue() *access.Catalogue {
	return access.NewCatalogue(Grantable(), access.TierZero(),
		[]access.Permission{tenant.OrganisationsRead, tenant.ProjectsRead, tenant.WorkspacesRead})
}
