package cli_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
)

type tokenAPI struct {
	loopbackv1connect.UnimplementedTokenServiceHandler
	p *controlPlane
}

func (a tokenAPI) find(name string, change func(*pb.Token)) (*pb.Token, error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	for _, t := range a.p.tokens {
		if t.Id == name || t.Name == name {
			change(t)
			return proto.Clone(t).(*pb.Token), nil
		}
	}
	return nil, refuse(fault.New(fault.NotFound, "token_not_found", "there is no token %s", name))
}

func (a tokenAPI) mint(q *pb.MintTokenRequest) *pb.MintTokenResponse {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	a.p.lastMint = q
	ttl := time.Hour
	if q.Ttl != nil {
		ttl = q.Ttl.AsDuration()
	}
	t := &pb.Token{Id: fmt.Sprintf("tok_%d", len(a.p.tokens)+1), Description: q.Description, State: "active", MaxUses: max(q.MaxUses, 1),
		ExpiresAt: timestamppb.New(time.Now().Add(ttl)), HostLabels: q.HostLabels, Honeytoken: q.Honeytoken, EphemeralTtl: q.EphemeralTtl}
	t.Name = cmp.Or(q.Name, t.Id)
	a.p.tokens = append(a.p.tokens, t)
	return &pb.MintTokenResponse{Token: proto.Clone(t).(*pb.Token), Secret: "lbt_" + t.Id, InstallCommand: "curl -fsSL https://cp.example.com/install.sh | sh"}
}

func (a tokenAPI) MintToken(_ context.Context, r *connect.Request[pb.MintTokenRequest]) (*connect.Response[pb.MintTokenResponse], error) {
	if r.Msg.Ttl.AsDuration() > 90*24*time.Hour {
		f := fault.New(fault.Invalid, "token_invalid", "the token cannot be minted").WithHint("ask for less, or raise the workspace's maximum")
		f.Violations = []fault.Violation{{Field: "ttl", Message: "is more than 90 days"}, {Field: "maxUses", Message: "is missing"}}
		return nil, refuse(f)
	}
	return answer(a.mint(r.Msg), nil)
}

func (a tokenAPI) GetToken(_ context.Context, r *connect.Request[pb.GetTokenRequest]) (*connect.Response[pb.Token], error) {
	return answer(a.find(r.Msg.Token, func(*pb.Token) {}))
}

func (a tokenAPI) ListTokens(_ context.Context, r *connect.Request[pb.ListTokensRequest]) (*connect.Response[pb.ListTokensResponse], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	all := slices.DeleteFunc(clone(a.p.tokens), func(t *pb.Token) bool {
		return len(r.Msg.States) > 0 && !slices.Contains(r.Msg.States, t.State)
	})
	items, next := page(all, r.Msg.Page)
	return answer(&pb.ListTokensResponse{Items: items, NextPageToken: next}, nil)
}

func (a tokenAPI) RotateToken(_ context.Context, r *connect.Request[pb.RotateTokenRequest]) (*connect.Response[pb.MintTokenResponse], error) {
	if _, err := a.find(r.Msg.Token, func(*pb.Token) {}); err != nil {
		return nil, err
	}
	made := a.mint(&pb.MintTokenRequest{Ttl: r.Msg.Ttl})
	_, err := a.find(r.Msg.Token, func(t *pb.Token) { t.SuccessorId = made.Token.Id })
	return answer(made, err)
}

func (a tokenAPI) RevokeToken(_ context.Context, r *connect.Request[pb.RevokeTokenRequest]) (*connect.Response[pb.RevokeTokenResponse], error) {
	t, err := a.find(r.Msg.Token, func(t *pb.Token) { t.State, t.Reason = "revoked", r.Msg.Reason })
	if err != nil {
		return nil, err
	}
	out := &pb.RevokeTokenResponse{Token: t}
	if r.Msg.Hosts == "quarantine" || r.Msg.Hosts == "expel" {
		out.Operation = a.p.begin("token.revoke", t.Id)
	}
	return answer(out, nil)
}

type keyAPI struct {
	loopbackv1connect.UnimplementedApiKeyServiceHandler
	p *controlPlane
}

func (p *controlPlane) makeKey(name string, permissions ...string) *pb.CreateApiKeyResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := &pb.ApiKey{Id: fmt.Sprintf("key_%d", len(p.keys)+1), Name: name, Permissions: permissions, ExpiresAt: timestamppb.New(time.Now().Add(time.Hour))}
	p.keys = append(p.keys, k)
	return &pb.CreateApiKeyResponse{ApiKey: proto.Clone(k).(*pb.ApiKey), Secret: "lbk_" + k.Id}
}

func (a keyAPI) CreateApiKey(_ context.Context, r *connect.Request[pb.CreateApiKeyRequest]) (*connect.Response[pb.CreateApiKeyResponse], error) {
	return answer(a.p.makeKey(r.Msg.Name, r.Msg.Permissions...), nil)
}

func (a keyAPI) find(id string, change func(*pb.ApiKey)) (*connect.Response[pb.ApiKey], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	for _, k := range a.p.keys {
		if k.Id == id || k.Name == id {
			change(k)
			return answer(proto.Clone(k).(*pb.ApiKey), nil)
		}
	}
	return nil, refuse(fault.New(fault.NotFound, "api_key_not_found", "there is no API key %s", id))
}

func (a keyAPI) GetApiKey(_ context.Context, r *connect.Request[pb.GetApiKeyRequest]) (*connect.Response[pb.ApiKey], error) {
	return a.find(r.Msg.ApiKey, func(*pb.ApiKey) {})
}

func (a keyAPI) RevokeApiKey(_ context.Context, r *connect.Request[pb.RevokeApiKeyRequest]) (*connect.Response[pb.ApiKey], error) {
	return a.find(r.Msg.ApiKey, func(k *pb.ApiKey) { k.RevokedAt = timestamppb.Now() })
}

func (a keyAPI) ListApiKeys(_ context.Context, r *connect.Request[pb.ListApiKeysRequest]) (*connect.Response[pb.ListApiKeysResponse], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	items, next := page(clone(a.p.keys), r.Msg.Page)
	return answer(&pb.ListApiKeysResponse{Items: items, NextPageToken: next}, nil)
}

type sessionAPI struct {
	loopbackv1connect.UnimplementedSessionServiceHandler
	p *controlPlane
}

func (a sessionAPI) WhoAmI(_ context.Context, r *connect.Request[pb.WhoAmIRequest]) (*connect.Response[pb.WhoAmIResponse], error) {
	name := "administrator"
	key := strings.TrimPrefix(r.Header().Get("Authorization"), "Bearer lbk_")
	for _, k := range a.p.keys {
		if k.Id == key {
			name = k.Name
		}
	}
	return answer(&pb.WhoAmIResponse{Kind: "api_key", Id: "key_0", Name: name, Deployment: "dep_1", ServerVersion: "9.9.9",
		Grants: []*pb.PermissionGrant{{Permissions: []string{"*"}, Scope: &pb.Scope{}}}}, nil)
}

func (a sessionAPI) RedeemBootstrapCode(_ context.Context, r *connect.Request[pb.RedeemBootstrapCodeRequest]) (*connect.Response[pb.CreateApiKeyResponse], error) {
	a.p.mu.Lock()
	good := a.p.code != "" && a.p.code == r.Msg.Code
	if good {
		a.p.code = ""
	}
	a.p.mu.Unlock()
	if !good {
		return nil, refuse(fault.New(fault.Unauthenticated, "bootstrap_refused", "the bootstrap code is not valid").WithHint("loopbackd prints a new one at its next start"))
	}
	return answer(a.p.makeKey(cmp.Or(r.Msg.Name, "administrator"), "*"), nil)
}

type auditAPI struct {
	loopbackv1connect.UnimplementedAuditServiceHandler
	p *controlPlane
}

// write adds an entry to the log.
func (p *controlPlane) write(action, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := int64(len(p.entries) + 1)
	p.entries = append(p.entries, &pb.AuditEntry{Id: fmt.Sprintf("aud_%d", n), Position: n, At: timestamppb.Now(), Action: action, Target: target,
		Outcome: "done", Actor: &pb.AuditActor{Kind: "api_key", Name: "administrator", Address: "192.0.2.7"}})
}

func (a auditAPI) ListEntries(_ context.Context, r *connect.Request[pb.ListEntriesRequest]) (*connect.Response[pb.ListEntriesResponse], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	all := slices.DeleteFunc(clone(a.p.entries), func(e *pb.AuditEntry) bool {
		return e.Position <= r.Msg.AfterPosition || r.Msg.Action != "" && e.Action != r.Msg.Action
	})
	if r.Msg.AfterPosition == 0 {
		slices.Reverse(all)
	}
	items, next := page(all, r.Msg.Page)
	return answer(&pb.ListEntriesResponse{Items: items, NextPageToken: next}, nil)
}

// treeAPI keeps workspaces; organisations and projects are told apart by the prefix of their ids.
type treeAPI struct {
	loopbackv1connect.UnimplementedOrganisationServiceHandler
	loopbackv1connect.UnimplementedProjectServiceHandler
	loopbackv1connect.UnimplementedWorkspaceServiceHandler
	p *controlPlane
}

func (a treeAPI) make(w *pb.Workspace, prefix string) *pb.Workspace {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	w.Id, w.Revision = prefix+w.Name, 1
	a.p.tree = append(a.p.tree, w)
	return proto.Clone(w).(*pb.Workspace)
}

func (a treeAPI) find(prefix, name string, change func(*pb.Workspace)) (*pb.Workspace, error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	for _, w := range a.p.tree {
		if strings.HasPrefix(w.Id, prefix) && (w.Id == name || w.Name == name) {
			change(w)
			return proto.Clone(w).(*pb.Workspace), nil
		}
	}
	return nil, refuse(fault.New(fault.NotFound, "not_found", "there is no %q", name))
}

func (a treeAPI) list(prefix string) []*pb.Workspace {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	return slices.DeleteFunc(clone(a.p.tree), func(w *pb.Workspace) bool { return !strings.HasPrefix(w.Id, prefix) })
}

func (a treeAPI) drop(prefix, name string) error {
	w, err := a.find(prefix, name, func(*pb.Workspace) {})
	if err != nil {
		return err
	}
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	a.p.tree = slices.DeleteFunc(a.p.tree, func(x *pb.Workspace) bool { return x.Id == w.Id })
	return nil
}

func organisation(w *pb.Workspace) *pb.Organisation {
	return &pb.Organisation{Id: w.GetId(), Name: w.GetName(), Description: w.GetDescription()}
}

func project(w *pb.Workspace) *pb.Project {
	return &pb.Project{Id: w.GetId(), Name: w.GetName(), Description: w.GetDescription(), OrganisationId: w.GetOrganisationId()}
}

func (a treeAPI) CreateOrganisation(_ context.Context, r *connect.Request[pb.CreateOrganisationRequest]) (*connect.Response[pb.Organisation], error) {
	return answer(organisation(a.make(&pb.Workspace{Name: r.Msg.Name, Description: r.Msg.Description}, "org_")), nil)
}
func (a treeAPI) GetOrganisation(_ context.Context, r *connect.Request[pb.GetOrganisationRequest]) (*connect.Response[pb.Organisation], error) {
	w, err := a.find("org_", r.Msg.Organisation, func(*pb.Workspace) {})
	return answer(organisation(w), err)
}
func (a treeAPI) ListOrganisations(context.Context, *connect.Request[pb.ListOrganisationsRequest]) (*connect.Response[pb.ListOrganisationsResponse], error) {
	out := &pb.ListOrganisationsResponse{}
	for _, w := range a.list("org_") {
		out.Items = append(out.Items, organisation(w))
	}
	return answer(out, nil)
}
func (a treeAPI) DeleteOrganisation(_ context.Context, r *connect.Request[pb.DeleteOrganisationRequest]) (*connect.Response[pb.DeleteOrganisationResponse], error) {
	return answer(&pb.DeleteOrganisationResponse{}, a.drop("org_", r.Msg.Organisation))
}

func (a treeAPI) CreateProject(_ context.Context, r *connect.Request[pb.CreateProjectRequest]) (*connect.Response[pb.Project], error) {
	return answer(project(a.make(&pb.Workspace{Name: r.Msg.Name, Description: r.Msg.Description, OrganisationId: r.Msg.Organisation}, "prj_")), nil)
}
func (a treeAPI) GetProject(_ context.Context, r *connect.Request[pb.GetProjectRequest]) (*connect.Response[pb.Project], error) {
	w, err := a.find("prj_", r.Msg.Project, func(*pb.Workspace) {})
	return answer(project(w), err)
}
func (a treeAPI) ListProjects(context.Context, *connect.Request[pb.ListProjectsRequest]) (*connect.Response[pb.ListProjectsResponse], error) {
	out := &pb.ListProjectsResponse{}
	for _, w := range a.list("prj_") {
		out.Items = append(out.Items, project(w))
	}
	return answer(out, nil)
}
func (a treeAPI) DeleteProject(_ context.Context, r *connect.Request[pb.DeleteProjectRequest]) (*connect.Response[pb.DeleteProjectResponse], error) {
	return answer(&pb.DeleteProjectResponse{}, a.drop("prj_", r.Msg.Project))
}

func (a treeAPI) CreateWorkspace(_ context.Context, r *connect.Request[pb.CreateWorkspaceRequest]) (*connect.Response[pb.Workspace], error) {
	return answer(a.make(&pb.Workspace{Name: r.Msg.Name, Description: r.Msg.Description, ProjectId: r.Msg.Project, TokenPolicy: r.Msg.TokenPolicy}, "ws_"), nil)
}
func (a treeAPI) GetWorkspace(_ context.Context, r *connect.Request[pb.GetWorkspaceRequest]) (*connect.Response[pb.Workspace], error) {
	return answer(a.find("ws_", r.Msg.Workspace, func(*pb.Workspace) {}))
}
func (a treeAPI) ListWorkspaces(_ context.Context, r *connect.Request[pb.ListWorkspacesRequest]) (*connect.Response[pb.ListWorkspacesResponse], error) {
	items, next := page(a.list("ws_"), r.Msg.Page)
	return answer(&pb.ListWorkspacesResponse{Items: items, NextPageToken: next}, nil)
}
func (a treeAPI) UpdateWorkspace(_ context.Context, r *connect.Request[pb.UpdateWorkspaceRequest]) (*connect.Response[pb.Workspace], error) {
	w, err := a.find("ws_", r.Msg.Workspace, func(w *pb.Workspace) {
		if r.Msg.Revision == w.Revision {
			w.TokenPolicy = r.Msg.TokenPolicy
			w.Revision++
			if r.Msg.Description != nil {
				w.Description = *r.Msg.Description
			}
		}
	})
	return answer(w, err)
}
func (a treeAPI) DeleteWorkspace(_ context.Context, r *connect.Request[pb.DeleteWorkspaceRequest]) (*connect.Response[pb.DeleteWorkspaceResponse], error) {
	return answer(&pb.DeleteWorkspaceResponse{}, a.drop("ws_", r.Msg.Workspace))
}

type settingsAPI struct {
	loopbackv1connect.UnimplementedSettingsServiceHandler
	p *controlPlane
}

func (a settingsAPI) now(host string) *pb.Settings {
	own := &pb.AgentSettings{}
	if a.p.settings != nil {
		own = proto.Clone(a.p.settings).(*pb.AgentSettings)
	}
	e := &pb.AgentSettings{HeartbeatMin: durationpb.New(5 * time.Second), HeartbeatMax: durationpb.New(20 * time.Second), LogLevel: "info"}
	proto.Merge(e, own)
	return &pb.Settings{Scope: &pb.Scope{WorkspaceId: "ws_default"}, HostId: host, Revision: 3, Own: own, Effective: e}
}

func (a settingsAPI) GetSettings(_ context.Context, r *connect.Request[pb.GetSettingsRequest]) (*connect.Response[pb.Settings], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	return answer(a.now(r.Msg.Host), nil)
}

func (a settingsAPI) SetSettings(_ context.Context, r *connect.Request[pb.SetSettingsRequest]) (*connect.Response[pb.Settings], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	if r.Msg.Revision != 3 {
		return nil, refuse(fault.New(fault.Conflict, "settings_changed", "somebody else changed the settings first"))
	}
	a.p.settings = r.Msg.Settings
	return answer(a.now(r.Msg.Host), nil)
}
