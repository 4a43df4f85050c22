package signin_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	slice "github.com/loopbackd/loopback/server/signin"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/signin"
)

func TestADeviceIsSignedInOnceItIsApproved(t *testing.T) {
	b := open(t)
	ada, mine, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.APIKey, KeyID: "key_1"})
	b.clock.Advance(5 * time.Minute)
	_, typed, text, err := b.BeginDevice(from(t.Context()), "loopback on laptop")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, waits, err := b.PollDevice(from(t.Context()), text); err != nil || !waits {
		t.Fatalf("before: waits %v, %v", waits, err)
	}
	shown, err := b.WaitingDevice(ada, strings.ToLower(strings.ReplaceAll(typed, "-", " ")))
	if err != nil || shown.Address != here.String() || shown.Agent != "loopback on laptop" {
		t.Errorf("shown is %+v, %v", shown, err)
	}
	if _, err := b.DecideDevice(ada, typed, true); err != nil {
		t.Fatal(err)
	}
	in, credential, waits, err := b.PollDevice(from(t.Context()), text)
	if err != nil || waits || in.UserID != b.ada.ID || in.Method != signin.ByDevice || in.Via != mine.ID {
		t.Fatalf("got %+v, waits %v, %v", in, waits, err)
	}
	// It holds what its approver holds, and stays no longer.
	if in.KeyID != "key_1" || !in.ExpiresAt.Equal(mine.ExpiresAt) || !in.MFAAt.IsZero() {
		t.Errorf("bounded by %q until %s, second factor %s; want key_1 until %s", in.KeyID, in.ExpiresAt, in.MFAAt, mine.ExpiresAt)
	}
	if got := b.code(t, credential); got != "" {
		t.Errorf("its string: got %q", got)
	}
	// Once.
	if _, _, _, err := b.PollDevice(from(t.Context()), text); code(err) != "device_unknown" {
		t.Errorf("asked again: got %v", err)
	}
	if _, err := b.DecideDevice(ada, typed, true); code(err) != "device_code_unknown" {
		t.Errorf("approved again: got %v", err)
	}
	l := b.log(t, audit.Query{Action: access.SelfManage})
	if len(l) != 1 || !strings.Contains(string(l[0].After), here.String()) {
		t.Errorf("the audit log has %+v", l)
	}
}

func TestADeviceThatIsNotApprovedGetsNothing(t *testing.T) {
	b := open(t)
	ada, _, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	ask := func() (typed, text string) {
		t.Helper()
		_, typed, text, err := b.BeginDevice(from(t.Context()), "x")
		if err != nil {
			t.Fatal(err)
		}
		return typed, text
	}
	denied, text := ask()
	if _, err := b.DecideDevice(ada, denied, false); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := b.PollDevice(from(t.Context()), text); code(err) != "device_denied" {
		t.Errorf("denied: got %v", err)
	}
	late, text := ask()
	b.clock.Advance(signin.DeviceLife)
	if _, _, _, err := b.PollDevice(from(t.Context()), text); code(err) != "device_unknown" {
		t.Errorf("too late: got %v", err)
	}
	bob, _, _ := b.begin(t, slice.Start{User: b.bob.ID, Method: signin.OIDC})
	if _, err := b.DecideDevice(bob, late, true); code(err) != "device_code_unknown" {
		t.Errorf("approved too late: got %v", err)
	}
	gone, text := ask()
	if _, err := b.DecideDevice(bob, gone, true); err != nil {
		t.Fatal(err)
	}
	if err := b.End(bob, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := b.PollDevice(from(t.Context()), text); code(err) != "device_unknown" {
		t.Errorf("approved by who was signed out since: got %v", err)
	}
	key := access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Principal: b.ada.ID, Grants: []access.Grant{{Permissions: []access.Permission{access.All}}}}))
	more, _ := ask()
	if _, err := b.DecideDevice(key, more, true); code(err) != "permission_denied" {
		t.Errorf("approved with an API key: got %v", err)
	}
	for name, text := range map[string]string{"noise": "lbd_x", "another's": func() string { _, s := signin.NewDevice(noon); return s }()} {
		if _, _, _, err := b.PollDevice(from(t.Context()), text); code(err) != "device_unknown" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCodesAreNotGuessedAndDevicesDoNotPileUp(t *testing.T) {
	b := open(t)
	ada, _, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	bob, _, _ := b.begin(t, slice.Start{User: b.bob.ID, Method: signin.OIDC})
	var last string
	for n := range signin.MaxDevicesHere {
		_, c, _, err := b.BeginDevice(from(t.Context()), "x")
		if err != nil {
			t.Fatalf("device %d: %v", n, err)
		}
		last = c
	}
	if _, _, _, err := b.BeginDevice(from(t.Context()), "x"); code(err) != "devices_many" {
		t.Errorf("one more from here: got %v", err)
	}
	// They are counted on all replicas together.
	replica := b.replica()
	elsewhere := access.WithActor(t.Context(), access.Actor{Kind: access.Anonymous, Address: "192.0.2.1"})
	if _, _, _, err := b.BeginDevice(elsewhere, "x"); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	tried := 0
	for {
		_, err := []*slice.Service{b.Service, replica}[tried%2].WaitingDevice(ada, signin.NewCode())
		if code(err) == "device_code_guesses" {
			break
		}
		if tried++; code(err) != "device_code_unknown" || tried > 20 {
			t.Fatalf("guess %d: got %v", tried, err)
		}
	}
	if tried != signin.MaxGuesses {
		t.Errorf("%d guesses were allowed", tried)
	}
	if _, err := b.DecideDevice(ada, last, true); code(err) != "device_code_guesses" {
		t.Errorf("the right code after too many: got %v", err)
	}
	if _, err := b.WaitingDevice(bob, last); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	b.clock.Advance(signin.DeviceLife)
	if _, err := b.WaitingDevice(ada, last); code(err) != "device_code_unknown" {
		t.Errorf("ten minutes later: got %v", err)
	}
}

func TestCodes(t *testing.T) {
	var seen []string
	for range 1000 {
		c := signin.NewCode()
		plain, err := signin.ParseCode(strings.ToLower(c))
		if err != nil || len(plain) != 8 || len(c) != 9 || c[4] != '-' || slices.Contains(seen, c) {
			t.Fatalf("%q is %q, %v", c, plain, err)
		}
		seen = append(seen, c)
	}
	for _, c := range []string{"", "BCDF", "BCDF-GHJ", "BCDF-GHJKL", "AEIO-UYAE", "BCDF-GHJ1", "BCDF/GHJK"} {
		if _, err := signin.ParseCode(c); err == nil {
			t.Errorf("%q was taken", c)
		}
	}
}

func TestADeviceGetsItsApproversFactorForConditionsOnly(t *testing.T) {
	b := open(t)
	ada, mine, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.Passkey, MFAAt: b.clock.Now()})
	for _, age := range []time.Duration{0, 10 * time.Minute} {
		b.clock.Advance(age)
		_, typed, text, err := b.BeginDevice(from(t.Context()), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.DecideDevice(ada, typed, true); err != nil {
			t.Fatal(err)
		}
		in, _, _, err := b.PollDevice(from(t.Context()), text)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.clock.Now().Sub(in.MFAAt); got <= access.StepUpWithin || got > max(age, 2*access.StepUpWithin) || in.MFAAt.After(mine.MFAAt) {
			t.Errorf("approved %s after the passkey was shown, it is %s old", age, got)
		}
	}
}

// What a command line asks for is shown by its own user, for this very request, and counts on both sides.
func TestACommandLineGetsThePasskeyThatItsUserShowed(t *testing.T) {
	b := open(t)
	cli, asking, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.ByDevice})
	browser, in, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	bob, _, _ := b.begin(t, slice.Start{User: b.bob.ID, Method: signin.OIDC})
	show := func() {
		t.Helper()
		in.MFAAt = b.clock.Now()
		if err := b.db.Observe(t.Context(), func(tx *storage.Tx) (err error) { in, err = tx.PutSignIn(t.Context(), in); return }); err != nil {
			t.Fatal(err)
		}
	}
	show()
	b.clock.Advance(time.Second)
	d, typed, text, err := b.BeginStepUp(cli)
	if err != nil || d.StepUp != asking.ID {
		t.Fatalf("got %+v, %v", d, err)
	}
	if _, err := b.DecideDevice(bob, typed, true); code(err) != "device_other_user" {
		t.Errorf("somebody else approves: got %v", err)
	}
	if _, err := b.DecideDevice(browser, typed, true); code(err) != "step_up_required" {
		t.Errorf("with a passkey that was shown before: got %v", err)
	}
	if _, _, waits, err := b.PollDevice(from(t.Context()), text); err != nil || !waits {
		t.Errorf("meanwhile: waits %v, %v", waits, err)
	}
	show()
	if _, err := b.DecideDevice(browser, typed, true); err != nil {
		t.Fatal(err)
	}
	got, credential, waits, err := b.PollDevice(from(t.Context()), text)
	if err != nil || waits || credential != "" || got.ID != asking.ID || !got.MFAAt.Equal(in.MFAAt) {
		t.Errorf("got %+v, a credential %v, waits %v, %v", got, credential != "", waits, err)
	}
	if _, err := b.DecideDevice(browser, typed, true); code(err) != "device_code_unknown" {
		t.Errorf("approved again: got %v", err)
	}
	// Too late, or for a sign-in that ended: nothing.
	_, typed, _, err = b.BeginStepUp(cli)
	if err != nil {
		t.Fatal(err)
	}
	show()
	b.clock.Advance(access.StepUpWithin + time.Second)
	if _, err := b.DecideDevice(browser, typed, true); code(err) != "step_up_required" {
		t.Errorf("a minute after the passkey was shown: got %v", err)
	}
	if err := b.End(cli, ""); err != nil {
		t.Fatal(err)
	}
	show()
	if _, err := b.DecideDevice(browser, typed, true); code(err) != "sign_in_ended" {
		t.Errorf("for a sign-in that ended: got %v", err)
	}
	key := access.WithActor(t.Context(), access.Actor{Kind: access.APIKey, ID: "key_1", Principal: b.ada.ID})
	if _, _, _, err := b.BeginStepUp(key); code(err) != "permission_denied" {
		t.Errorf("an API key asks: got %v", err)
	}
}
