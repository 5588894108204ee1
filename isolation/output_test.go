package isolation

import (
	"bytes"
	"math/rand"
	"testing"

	"gotest.tools/v3/assert"
)

// The Capture is compared with the obvious implementation: keep everything,
// then cut.
func TestCaptureKeepsHeadAndTail(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for round := range 2000 {
		limit := 1 + rnd.Intn(40)
		c := NewCapture(int64(limit))
		var all []byte
		for range rnd.Intn(12) {
			p := make([]byte, rnd.Intn(30))
			rnd.Read(p)
			n, err := c.Write(p)
			assert.NilError(t, err)
			assert.Equal(t, n, len(p))
			all = append(all, p...)
		}
		want, dropped, offset := all, 0, 0
		if len(all) > limit {
			head := limit / 2
			dropped, offset = len(all)-limit, head
			want = append(append([]byte{}, all[:head]...), all[len(all)-(limit-head):]...)
		}
		assert.Assert(t, bytes.Equal(c.Bytes(), want), "round %d, limit %d", round, limit)
		gotDropped, gotOffset := c.Dropped()
		assert.Equal(t, gotDropped, int64(dropped))
		assert.Equal(t, gotOffset, int64(offset))
	}
}

func TestCheckFilePath(t *testing.T) {
	for _, good := range []string{"a", "a/b.txt", "..a", "a..", ".hidden", "ü/日本"} {
		assert.NilError(t, CheckFilePath(good))
	}
	for _, bad := range []string{"", ".", "..", "../a", "a/../b", "/a", "a//b", "a/", "a\x00b", "./a"} {
		assert.Assert(t, CheckFilePath(bad) != nil, "%q", bad)
	}
}
