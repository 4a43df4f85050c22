package server

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/server/storage"
)

func (r *running) reviewing(key string, headers ...string) loopbackv1connect.AccessReviewServiceClient {
	return loopbackv1connect.NewAccessReviewServiceClient(&http.Client{Transport: bearer{key, headers, r.client.Transport}}, r.url+"/api")
}

func in(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }

// overdue lets a review's time be over.
func (r *running) overdue(t *testing.T, id string) {
	t.Helper()
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		v, err := tx.Review(t.Context(), id)
		if err == nil {
			v.DueAt = time.Now().Add(-time.Second)
			_, err = tx.PutReview(t.Context(), v)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func itemsOf(t *testing.T, c loopbackv1connect.AccessReviewServiceClient, id string) map[string]*v1.AccessReviewItem {
	t.Helper()
	out := map[string]*v1.AccessReviewItem{}
	for _, i := range do(t, c.ListAccessReviewItems, &v1.ListAccessReviewItemsRequest{AccessReview: id}).Items {
		out[i.SubjectName+" "+i.RoleName] = i
	}
	return out
}

func TestStandingAccessIsKeptWithARationaleOrRevoked(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	_, alice := r.person(t, &v1.CreateUserRequest{Name: "alice", Email: "alice@example.com"}, "admin")
	_, twin := r.person(t, &v1.CreateUserRequest{Name: "alice-2", Email: "Alice@Example.com"}, "admin")
	bob, bobKey := r.person(t, &v1.CreateUserRequest{Name: "bob"}, "member")
	_, _, robot := r.holder(t, "robot", &v1.CreateBindingRequest{Role: "admin"})
	group := do(t, admin.groups.CreateGroup, &v1.CreateGroupRequest{Name: "crew"})
	do(t, admin.groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: group.Id, Users: []string{"alice"}})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{Group: group.Id, Role: "operator", Workspace: "default"})
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "publisher", Permissions: []string{"releases.publish"}})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: bob.Id, Role: "publisher", Deny: true}) // a denial gives nothing
	do(t, r.as(bobKey).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{})

	if code := refused(t, r.reviewing(bobKey).CreateAccessReview, &v1.CreateAccessReviewRequest{Name: "q3", DueAt: in(24 * time.Hour)}); code != "permission_denied" {
		t.Errorf("a member begins a review: got %q", code)
	}
	for want, q := range map[string]*v1.CreateAccessReviewRequest{
		"no end":          {Name: "q3"},
		"an end too soon": {Name: "q3", DueAt: in(time.Minute)},
		"no name":         {DueAt: in(24 * time.Hour)},
	} {
		if code := refused(t, r.reviewing(alice).CreateAccessReview, q); code != "access_review_invalid" {
			t.Errorf("%s: got %q", want, code)
		}
	}
	v := do(t, r.reviewing(r.key).CreateAccessReview, &v1.CreateAccessReviewRequest{Name: "q3", DueAt: in(24 * time.Hour)})
	items := itemsOf(t, r.reviewing(alice), v.Id)
	for _, want := range []string{"alice admin", "alice-2 admin", "bob member", "robot admin", "crew operator", "administrator owner"} {
		if items[want] == nil {
			t.Fatalf("under review are %v, want %s among them", slices.Collect(func(yield func(string) bool) {
				for k := range items {
					if !yield(k) {
						return
					}
				}
			}), want)
		}
	}
	if int(v.Items) != len(items) || v.Open != v.Items || items["bob publisher"] != nil {
		t.Errorf("got %v with %d items", v, len(items))
	}
	if i := items["bob member"]; !i.LastSeenAt.IsValid() || !i.GrantedAt.IsValid() || i.GrantedBy == "" || i.LastActAt != nil {
		t.Errorf("of bob is known %v, want since when, by whom, and when he was seen", i)
	}
	if i := items["administrator owner"]; !i.LastActAt.IsValid() {
		t.Errorf("of the administrator is known %v, want when it last acted by that", i)
	}

	say := func(what, rationale string, names ...string) *v1.AnswerAccessReviewRequest {
		q := &v1.AnswerAccessReviewRequest{AccessReview: v.Id, Answer: what, Rationale: rationale}
		for _, n := range names {
			q.Bindings = append(q.Bindings, items[n].BindingId)
		}
		return q
	}
	for _, c := range []struct {
		name, key, want string
		q               *v1.AnswerAccessReviewRequest
	}{
		{"one's own", alice, "access_review_own", say("keep", "mine", "alice admin")},
		{"one's own by another account", twin, "access_review_own", say("keep", "mine", "alice admin")},
		{"through a group", alice, "access_review_own", say("keep", "ours", "crew operator")},
		{"through a group by another account", twin, "access_review_own", say("keep", "ours", "crew operator")},
		{"others' along with one's own", alice, "access_review_own", say("keep", "all", "bob member", "alice admin")},
		{"a machine", robot, "access_review_not_a_person", say("keep", "beep", "bob member")},
		{"who may not", bobKey, "permission_denied", say("keep", "please", "alice admin")},
		{"without why", alice, "request_invalid", say("keep", " ", "bob member")},
		{"neither", alice, "request_invalid", say("perhaps", "why", "bob member")},
		{"twice in one", alice, "request_invalid", say("keep", "why", "bob member", "bob member")},
		{"the last owner", alice, "last_owner", say("revoke", "why", "administrator owner")},
	} {
		if code := refused(t, r.reviewing(c.key).AnswerAccessReview, c.q); code != c.want {
			t.Errorf("%s: got %q, want %q", c.name, code, c.want)
		}
	}
	if got := do(t, r.reviewing(alice).GetAccessReview, &v1.GetAccessReviewRequest{AccessReview: v.Id}); got.Open != v.Open {
		t.Fatalf("refused answers changed it: %v", got)
	}

	do(t, r.reviewing(alice).AnswerAccessReview, say("revoke", "changed teams", "bob member"))
	if code := refused(t, r.as(bobKey).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{}); code != "permission_denied" {
		t.Errorf("after it was revoked: got %q", code)
	}
	if code := refused(t, r.reviewing(alice).AnswerAccessReview, say("keep", "no, wait", "bob member")); code != "access_review_answered" {
		t.Errorf("answered twice: got %q", code)
	}
	do(t, admin.bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: items["robot admin"].BindingId})
	do(t, r.reviewing(alice).AnswerAccessReview, say("keep", "needed for backups", "robot admin"))
	if got := itemsOf(t, r.reviewing(alice), v.Id)["robot admin"]; got.Answer != "gone" {
		t.Errorf("what was deleted meanwhile is %v", got)
	}
	do(t, r.reviewing(alice, "Loopback-Reason", "owns it").AnswerAccessReview, say("keep", "", "administrator owner"))
	do(t, r.reviewing(r.key).AnswerAccessReview, say("keep", "on call", "alice admin", "alice-2 admin", "crew operator"))
	for name, i := range itemsOf(t, r.reviewing(alice), v.Id) { // whatever else the deployment began with
		if i.Answer == "open" {
			do(t, r.reviewing(alice).AnswerAccessReview, say("keep", "of the start", name))
		}
	}
	done := do(t, r.reviewing(alice).GetAccessReview, &v1.GetAccessReviewRequest{AccessReview: v.Id})
	if done.State != "done" || done.Open != 0 || done.Revoked != 1 || done.Gone != 1 || done.Kept != done.Items-2 || !done.ClosedAt.IsValid() {
		t.Errorf("got %v", done)
	}
	e := do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Target: items["bob member"].BindingId, Action: "access_reviews.answer"}).Items
	if len(e) != 1 || e[0].Reason != "changed teams" || e[0].After.GetStructValue().GetFields()["answer"].GetStringValue() != "revoked" ||
		e[0].After.GetStructValue().GetFields()["review"].GetStringValue() != v.Id {
		t.Errorf("the audit log has %v", e)
	}
	e = do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Target: v.Id, Action: "access_reviews.create"}).Items
	if len(e) != 1 || len(e[0].After.GetStructValue().GetFields()["bindings"].GetListValue().GetValues()) != len(items) {
		t.Errorf("the audit log does not have what is under review: %v", e)
	}
}

func TestWhatNobodyAnswersForEndsWhereTheReviewSaysSo(t *testing.T) {
	r := serve(t)
	bob, bobKey := r.person(t, &v1.CreateUserRequest{Name: "bob"}, "member")
	do(t, r.as(bobKey).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{})
	c := r.reviewing(r.key)
	left := do(t, c.CreateAccessReview, &v1.CreateAccessReviewRequest{Name: "lenient", DueAt: in(time.Hour + time.Minute)})
	r.overdue(t, left.Id)
	if code := refused(t, c.AnswerAccessReview, &v1.AnswerAccessReviewRequest{AccessReview: left.Id, Bindings: []string{itemsOf(t, c, left.Id)["bob member"].BindingId}, Answer: "keep", Rationale: "late"}); code != "access_review_over" {
		t.Errorf("answered too late: got %q", code)
	}
	if err := r.reviews.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := do(t, c.GetAccessReview, &v1.GetAccessReviewRequest{AccessReview: left.Id}); got.State != "overdue" || got.Unanswered != got.Items || got.Items != left.Items {
		t.Errorf("got %v", got)
	}
	do(t, r.as(bobKey).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{})

	strict := do(t, c.CreateAccessReview, &v1.CreateAccessReviewRequest{Name: "strict", DueAt: in(time.Hour + time.Minute), RevokeUnanswered: true})
	r.overdue(t, strict.Id)
	for range 2 { // the second time there is nothing to do
		if err := r.reviews.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	items := itemsOf(t, c, strict.Id)
	if items["bob member"].Answer != "expired" || items["administrator owner"].Answer != "unanswered" {
		t.Errorf("bob's is %v, the last owner's %v", items["bob member"], items["administrator owner"])
	}
	if code := refused(t, r.as(bobKey).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{}); code != "permission_denied" {
		t.Errorf("after nobody answered for %s: got %q", bob.Name, code)
	}
	e := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Target: strict.Id, Action: "access_reviews.expire"}).Items
	if len(e) != 1 || len(e[0].After.GetStructValue().GetFields()["unanswered"].GetListValue().GetValues()) != int(strict.Items) {
		t.Errorf("the audit log does not list what was not answered: %v", e)
	}

	over := do(t, c.CreateAccessReview, &v1.CreateAccessReviewRequest{Name: "mistaken", DueAt: in(24 * time.Hour), RevokeUnanswered: true})
	do(t, c.CancelAccessReview, &v1.CancelAccessReviewRequest{AccessReview: over.Id, Reason: "wrong place"})
	r.overdue(t, over.Id)
	if err := r.reviews.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(t, r.as(r.key).spaces.ListWorkspaces, &v1.ListWorkspacesRequest{})
	if code := refused(t, c.CancelAccessReview, &v1.CancelAccessReviewRequest{AccessReview: over.Id}); code != "access_review_over" {
		t.Errorf("cancelled twice: got %q", code)
	}
}
