package host

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func codes(list []Trouble) string {
	var out []string
	for _, t := range list {
		mark := ""
		if t.Ongoing {
			mark = "!"
		}
		out = append(out, t.Code+mark)
	}
	return strings.Join(out, " ")
}

func TestTroublesAreKeptByCodeWithWhatIsThereNowFirst(t *testing.T) {
	list := MetTrouble(nil, Trouble{Code: "dns_failed", At: noon, Attempts: 2}, Trouble{Code: "proxy_auth_required", At: noon.Add(time.Minute)})
	list = MetTrouble(list, Trouble{Code: "dns_failed", At: noon.Add(time.Hour), Attempts: 7, Ongoing: true})
	if got := codes(list); got != "dns_failed proxy_auth_required" || list[0].Attempts != 7 {
		t.Errorf("got %s, %+v", got, list)
	}
	list = OngoingTroubles(list, []Trouble{{Code: "disk_full", Message: "3 MiB", At: noon}})
	list = OngoingTroubles(list, []Trouble{{Code: "disk_full", Message: "2 MiB", At: noon.Add(time.Hour)}, {Code: "clock_skew", At: noon.Add(2 * time.Hour)}})
	if got := codes(list); got != "clock_skew! disk_full! dns_failed proxy_auth_required" {
		t.Errorf("got %s", got)
	}
	if d := list[1]; !d.At.Equal(noon) || d.Message != "2 MiB" {
		t.Errorf("a trouble that lasts is said to be there since %s: %s", d.At, d.Message)
	}
	list = MetTrouble(OngoingTroubles(list, nil), Trouble{Code: "clock_skew", At: noon.Add(3 * time.Hour)})
	if got := codes(list); got != "clock_skew dns_failed proxy_auth_required disk_full" {
		t.Errorf("after all was over: %s", got)
	}
	for i := range 100 {
		list = MetTrouble(list, Trouble{Code: fmt.Sprint("code_", i), At: noon.Add(time.Duration(i) * time.Hour)})
	}
	if len(list) != MaxTroubles || list[0].Code != "code_99" {
		t.Errorf("%d are kept, the first is %s", len(list), list[0].Code)
	}
}

func TestOngoingTroublesAreTheSameByTheirCodes(t *testing.T) {
	held := []Trouble{{Code: "disk_full", Message: "3 MiB", Ongoing: true}, {Code: "dns_failed"}}
	for _, c := range []struct {
		now  []Trouble
		want bool
	}{
		{[]Trouble{{Code: "disk_full", Message: "2 MiB"}}, true},
		{[]Trouble{{Code: "disk_full"}, {Code: "disk_full"}}, true},
		{nil, false},
		{[]Trouble{{Code: "disk_full"}, {Code: "dns_failed"}}, false},
	} {
		if got := SameOngoing(held, c.now); got != c.want {
			t.Errorf("%s: %v, want %v", codes(c.now), got, c.want)
		}
	}
}

func TestAHostIsDegradedByWhatStandsInItsWayNow(t *testing.T) {
	f := Facts{Lifecycle: LifecycleActive, Converged: true, Online: true}
	for _, c := range []struct {
		trouble Trouble
		state   State
	}{
		{Trouble{Code: "dns_failed"}, Managed},
		{Trouble{Code: "websocket_blocked", Ongoing: true}, Managed},
		{Trouble{Code: "disk_full", Message: "3 MiB free", Ongoing: true}, Degraded},
	} {
		f.Troubles = []Trouble{c.trouble}
		state, reason := f.Derive(noon)
		if state != c.state || state == Degraded && reason != "disk_full: 3 MiB free" {
			t.Errorf("%+v: %s, %q", c.trouble, state, reason)
		}
	}
}
