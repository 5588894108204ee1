package main

import (
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// What a start allocates, for the most part to drop, is about 20 MiB.
	// Collecting garbage meanwhile would be a sixth of its CPU time.
	firstCollection = 32 << 20
	// So much of it is asked for in huge pages: one page fault for 512.
	hugePages = 12 << 20

	hugePage  = 2 << 20
	goMinimum = 4 << 20 // the heap at which Go collects first, with GOGC=100
	usual     = 100     // GOGC
)

// started is how long after the snapshot has been read a sandbox is ready, and
// a little more.
const started = 300 * time.Millisecond

// A heap is the area that was prepared for the start.
type heap struct{ start, size uintptr }

// prepareHeap makes the start cheaper. Once the first garbage has been
// collected the heap is as in any Go program.
func prepareHeap() heap {
	b := make([]byte, hugePages+hugePage)
	start := uintptr(unsafe.Pointer(&b[0]))
	h := heap{(start + hugePage - 1) &^ (hugePage - 1), hugePages}
	// The kernel may not have huge pages, or not want to give any.
	h.advise(unix.MADV_HUGEPAGE)
	b = nil
	runtime.GC() // the memory is free, and its pages stay as they are

	debug.SetGCPercent(usual * firstCollection / goMinimum)
	runtime.AddCleanup(&struct{ *int }{}, func(percent int) { debug.SetGCPercent(percent) }, usual)
	return h
}

// tidy gives back what only the start needed: a sandbox may wait for hours.
// The collection also closes a descriptor or two that gVisor leaves to it.
func (h heap) tidy() {
	debug.FreeOSMemory()
	// A huge page of which a part was given back stays whole, and charged, until
	// the kernel has a reason to look at it. This is one (Linux 5.4 and later).
	h.advise(unix.MADV_NOHUGEPAGE)
	h.advise(unix.MADV_COLD)
}

func (h heap) advise(advice uintptr) {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, h.start, h.size, advice)
}
