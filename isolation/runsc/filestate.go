package runsc

import (
	"os"
	"syscall"
)

// states reads the state of every file in dir.
func states(dir string) (map[string]fileState, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]fileState{}
	for _, e := range entries {
		info, err := os.Lstat(dir + "/" + e.Name())
		if err != nil {
			return nil, err
		}
		stat := info.Sys().(*syscall.Stat_t)
		out[e.Name()] = fileState{size: info.Size(), inode: int64(stat.Ino), modified: info.ModTime()}
	}
	return out, nil
}
