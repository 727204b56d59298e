package peltontest_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
)

// fakeT is a testing.TB for what runs outside a test: an example, and tests of
// how the helpers fail.
type fakeT struct {
	testing.TB // nil: what is missing below is not used
	ctx        context.Context
	stop       context.CancelFunc
	cleanups   []func()
	failures   []string
}

// failed is what Fatal and Fatalf panic with, so that nothing runs after them.
type failed struct{}

func newT() *fakeT {
	ctx, stop := context.WithCancel(context.Background())
	return &fakeT{ctx: ctx, stop: stop}
}

// end does what the end of a test does.
func (t *fakeT) end() {
	t.stop()
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
}

func (t *fakeT) Helper()                  {}
func (t *fakeT) Name() string             { return "fake" }
func (t *fakeT) Context() context.Context { return t.ctx }
func (t *fakeT) Cleanup(fn func())        { t.cleanups = append(t.cleanups, fn) }

func (t *fakeT) TempDir() string {
	dir, err := os.MkdirTemp("", "peltontest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("%v", err)
		}
	})
	return dir
}

func (t *fakeT) Errorf(format string, args ...any) {
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

func (t *fakeT) Fatal(args ...any) {
	t.failures = append(t.failures, fmt.Sprint(args...))
	panic(failed{})
}

func (t *fakeT) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	panic(failed{})
}
