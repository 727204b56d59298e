// Package floors holds the table of what each package of this module may
// import, and the test that compares the table with the code. Imports point
// down, siblings do not know each other, and a library is known to as few
// packages as can be. A package that is not in the table fails the test: whoever
// adds one decides where it belongs.
package floors
