package link

import (
	"strings"
	"testing"
	"unsafe"
)

// A million bytes that a host sends are not kept in memory for the 256 of them that are.
func TestCutTextDoesNotKeepTheRestAlive(t *testing.T) {
	long := strings.Repeat("x", 1_000_000)
	cut := clip(long)
	if cut != long[:maxText] {
		t.Errorf("got %d bytes, want the first %d", len(cut), maxText)
	}
	if unsafe.StringData(cut) == unsafe.StringData(long) {
		t.Error("the cut text shares the memory of the whole")
	}
}
