package runsc

import (
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
)

// A litter is the directories of sandboxes that could not be removed when it was
// time, because the file system was read-only or the like. They are tried again
// with each one that is removed later.
type litter struct {
	mu   sync.Mutex
	dirs map[string]bool
}

// remove removes a directory, or remembers it; its error is that directory's.
func (l *litter) remove(dir string) error {
	err := os.RemoveAll(dir)
	l.mu.Lock()
	defer l.mu.Unlock()
	for old := range l.dirs {
		if os.RemoveAll(old) == nil {
			delete(l.dirs, old)
		}
	}
	// One that was never made cannot be removed from a read-only file system,
	// either.
	if _, missing := os.Lstat(dir); err != nil && missing == nil {
		if l.dirs == nil {
			l.dirs = map[string]bool{}
		}
		l.dirs[dir] = true
	}
	return err
}

// removeAll tries all of them for the last time.
func (l *litter) removeAll() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, dir := range slices.Sorted(maps.Keys(l.dirs)) {
		errs = append(errs, os.RemoveAll(dir))
	}
	l.dirs = nil
	return errors.Join(errs...)
}
