package main

import (
	"context"
	"os"
	"path/filepath"
)

// late is a contestant that was set aside, and what is still to be read of it.
type late struct {
	contestant
	name   string
	mode   mode
	others float64
	read   func(context.Context) ([]measured, error)
}

// renew starts another contestant in place of the one that was set aside.
func (r *running) renew(ctx context.Context) error {
	r.contestant = nil
	r.dir = filepath.Join(r.dir, "next")
	if err := os.Mkdir(r.dir, 0o755); err != nil { //nolint:gosec // a broker may run as another user
		return err
	}
	made := r.make()
	if err := made.start(ctx, r.dir); err != nil {
		return err
	}
	r.contestant = made
	return nil
}
