package main

import (
	"log/slog"
	"runtime"
	"time"
)

// logEnd says, when everything has been given back, how many goroutines there
// still are: one that leaks can be seen from outside.
func logEnd(log *slog.Logger) {
	n := runtime.NumGoroutine()
	for range 20 {
		// Those that are just returning need a moment.
		time.Sleep(5 * time.Millisecond)
		now := runtime.NumGoroutine()
		if now == n {
			break
		}
		n = now
	}
	log.Debug("ended", "goroutines", n)
}
