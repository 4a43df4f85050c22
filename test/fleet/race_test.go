//go:build race

package fleet

// raced: the race detector makes every agent many times as expensive.
const raced = true
