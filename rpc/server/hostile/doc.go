// Package hostile holds no code, only tests: programs written by somebody who
// has read the source and means harm, sent through csbd's socket to real
// sandboxes.
//
// Each program states how it may end, and what its output must be. Of each the
// suite demands, besides, that it ends within its limit and a small bound, that
// no canary is in its answer, and that the next execution works. After each area
// csbd must run nothing and have as many sandboxes as its pools keep.
//
// `go test` runs a share of the programs, some of each area; with
// CSB_HOSTILE=all, as `make test-hostile` has it, all of them. System call
// numbers are those of x86-64.
package hostile
