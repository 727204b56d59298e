//go:build !linux && !darwin

package embed

import "errors"

// freeSpace is not known here. The server then keeps to three quarters of what was
// free when it started, as it does by itself.
func freeSpace(string) (space, error) { return space{}, errors.ErrUnsupported }
