package e2e

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets the tests wait beside each other: what they wait for is windows and timeouts, not processors, of which
// Go would take the number. A number that was asked for holds.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
