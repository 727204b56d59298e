// Package e2e runs the pelton binary as its users do, in processes of its own, and
// kills them. It has tests only.
package e2e
