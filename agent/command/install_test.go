package command

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/loopbackd/loopback/agent/install"
	"github.com/loopbackd/loopback/fault"
)

func TestTheOutcomeOfAnInstallationIsOneObject(t *testing.T) {
	for _, c := range []struct {
		result install.Result
		err    error
		want   string
	}{
		{install.Result{Changed: true, Version: "1.2.3", HostID: "hst_1", HostName: "web-1", State: "managed"}, nil,
			`{"changed":true,"version":"1.2.3","hostId":"hst_1","hostName":"web-1","state":"managed","ok":true}`},
		{install.Result{}, fault.New(fault.Unavailable, "dns_failed", "no such name").WithHint("check it"),
			`{"changed":false,"ok":false,"error":{"code":"dns_failed","message":"no such name","hint":"check it"}}`},
	} {
		b, err := json.Marshal(outcome(c.result, c.err))
		if err != nil || string(b) != c.want {
			t.Errorf("got %s, %v; want %s", b, err, c.want)
		}
	}
}

func TestAnInstallationThatIsAskedForWronglyChangesNothing(t *testing.T) {
	for _, args := range [][]string{{"install", "-o", "xml"}, {"install", "--proxy", "http://agent:s3cret@proxy:1"}, {"install", "-o", "json", "--token", "x"}} {
		var out, errs bytes.Buffer
		if code := Main(t.Context(), Environment{Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}, args); code != 2 || bytes.Contains(errs.Bytes(), []byte("s3cret")) {
			t.Errorf("%v: code %d, %s", args, code, errs.String())
		}
	}
}
