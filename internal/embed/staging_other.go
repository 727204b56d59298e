//go:build !linux

package embed

// memoryFolder is empty: there is no file system in memory that programs may count on.
func memoryFolder() string { return "" }
