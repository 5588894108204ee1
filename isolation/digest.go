package isolation

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
)

// DigestFile is the content digest of a file, "sha256:HEX", as images and
// snapshots are named and checked by it.
func DigestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
