//go:build !unix

package cli

// onResize does nothing where terminals do not tell that they have another size.
func onResize(func()) func() { return func() {} }
