// Package deploy has tests of the Helm chart. What else is in this folder is tested by
// package e2e, which runs it.
package deploy
