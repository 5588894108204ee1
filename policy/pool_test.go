package policy

import (
	"testing"

	"gotest.tools/v3/assert"
)

// Two pools of one image and profile would hide one another.
func TestPoolTwice(t *testing.T) {
	const text = `version: 1
profiles: {a: {}, b: {}}
rules: []
pools:
  - {image: python, profile: a, ready: 1}
  - {image: python, profile: b, ready: 1}
  - {image: python, profile: a, ready: 2}
`
	_, err := Parse(Source{Name: "p", Data: []byte(text)})
	assert.Error(t, err, `p:7: pools[2]: image "python" of profile "a" stands there twice`)
}
