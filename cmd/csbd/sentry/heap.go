package main

import (
	"runtime"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// What a start allocates, for the most part to keep, is about 20 MiB.
	// Collecting garbage meanwhile would be a sixth of its CPU time.
	firstCollection = 32 << 20
	// So much of it is asked for in huge pages: one page fault for 512.
	hugePages = 12 << 20

	hugePage  = 2 << 20
	goMinimum = 4 << 20 // the heap at which Go collects first, with GOGC=100
)

// prepareHeap makes the start cheaper. Once the first garbage has been
// collected the heap is as in any Go program.
func prepareHeap() {
	b := make([]byte, hugePages+hugePage)
	start := uintptr(unsafe.Pointer(&b[0]))
	aligned := int((start+hugePage-1)&^(hugePage-1) - start)
	// The kernel may not have huge pages, or not want to give any.
	_ = unix.Madvise(b[aligned:aligned+hugePages], unix.MADV_HUGEPAGE)
	b = nil
	runtime.GC() // the memory is free, and its pages stay as they are

	debug.SetGCPercent(100 * firstCollection / goMinimum)
	runtime.AddCleanup(&struct{ *int }{}, func(percent int) { debug.SetGCPercent(percent) }, 100)
}
