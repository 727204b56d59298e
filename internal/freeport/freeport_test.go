package freeport

import (
	"net"
	"testing"
)

func TestAddr(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 200 {
		addr := Addr(t)
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
}
