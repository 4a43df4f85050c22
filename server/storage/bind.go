package storage

import (
	"context"
	"fmt"
	"reflect"
)

// Store is a DB as a slice sees it: R is the interface of its reads, T that of its transactions.
type Store[R, T any] struct{ db *DB }

// Bind makes the Store of a slice. That View has R's methods, and Tx those of T, is checked here, once: a method that
// is missing is a defect in the wiring and panics with its name.
func Bind[R, T any](db *DB) Store[R, T] {
	must[*View, R]()
	must[*Tx, T]()
	return Store[R, T]{db}
}

func must[Has, Wants any]() {
	has, wants := reflect.TypeFor[Has](), reflect.TypeFor[Wants]()
	if wants.Kind() == reflect.Interface && has.Implements(wants) {
		return
	}
	for i := range wants.NumMethod() {
		m := wants.Method(i)
		if got, ok := has.MethodByName(m.Name); !ok {
			panic(fmt.Sprintf("storage: %s has no method %s, which %s demands", has, m.Name, wants))
		} else if got.Type.NumIn() != m.Type.NumIn()+1 || got.Type.NumOut() != m.Type.NumOut() {
			panic(fmt.Sprintf("storage: %s of %s is %s; %s demands %s", m.Name, has, got.Type, wants, m.Type))
		}
	}
	panic(fmt.Sprintf("storage: %s does not implement %s", has, wants))
}

// View reads.
func (s Store[R, T]) View() R { return any(s.db.View()).(R) }

// Write is DB.Write.
func (s Store[R, T]) Write(ctx context.Context, change func(T) error) error {
	return s.db.Write(ctx, func(tx *Tx) error { return change(any(tx).(T)) })
}

// Observe is DB.Observe.
func (s Store[R, T]) Observe(ctx context.Context, change func(T) error) error {
	return s.db.Observe(ctx, func(tx *Tx) error { return change(any(tx).(T)) })
}
