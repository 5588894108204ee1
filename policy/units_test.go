package policy_test

import (
	"math"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/policy"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "4096": 4096, "1B": 1, "1KiB": 1 << 10, "64MiB": 64 << 20, "1.5GiB": 3 << 29, "1TiB": 1 << 40,
		"500kB": 500e3, "500KB": 500e3, "2MB": 2e6, "1GB": 1e9, "1TB": 1e12, " 1 MiB ": 1 << 20, "67108864.0": 64 << 20, ".5KiB": 512,
	} {
		got, err := policy.ParseSize(text)
		assert.NilError(t, err, text)
		assert.Equal(t, got, want, text)
	}
	for _, text := range []string{"", " ", "MiB", "-1", "+1", "1e9", "0x10", "Inf", "NaN", "1_000", "1.2.3", ".", "1 2", "1mib", "1M", "1MiBB", "1Mi B", "1,5GiB", "٣"} {
		_, err := policy.ParseSize(text)
		assert.Error(t, err, "size "+quote(text)+": want a number of bytes, or one with KiB, MiB or GiB behind it")
	}
	for _, text := range []string{"9223372036854775807", "8388608TiB", "99999999999999999999"} {
		_, err := policy.ParseSize(text)
		assert.Error(t, err, "size "+quote(text)+": out of range")
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "2s": 2 * time.Second, "2": 2 * time.Second, "0.25": 250 * time.Millisecond, "500ms": 500 * time.Millisecond,
		"1m30s": 90 * time.Second, "1h": time.Hour, " 3s ": 3 * time.Second, "1.5h": 90 * time.Minute, "-5s": -5 * time.Second,
	} {
		got, err := policy.ParseDuration(text)
		assert.NilError(t, err, text)
		assert.Equal(t, got, want, text)
	}
	for _, text := range []string{"", "s", "-1", "1e3", "NaN", "inf", "1 s", "1d", "2S", "1.2.3", "999999999999h"} {
		_, err := policy.ParseDuration(text)
		assert.Error(t, err, "duration "+quote(text)+": want a number of seconds, or one with ms, s, m or h behind it")
	}
	_, err := policy.ParseDuration("99999999999")
	assert.Error(t, err, `duration "99999999999": out of range`)
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]policy.Rate{
		"6000/min": {N: 6000, Per: time.Minute}, "1/m": {N: 1, Per: time.Minute}, "2/minute": {N: 2, Per: time.Minute},
		"10/s": {N: 10, Per: time.Second}, "10/sec": {N: 10, Per: time.Second}, "10/second": {N: 10, Per: time.Second},
		"100/h": {N: 100, Per: time.Hour}, "100/hour": {N: 100, Per: time.Hour}, " 5 / s ": {N: 5, Per: time.Second},
	} {
		got, err := policy.ParseRate(text)
		assert.NilError(t, err, text)
		assert.Equal(t, got, want, text)
		again, err := policy.ParseRate(got.String())
		assert.NilError(t, err, text)
		assert.Equal(t, again, got)
	}
	for _, text := range []string{"", "/", "10", "10/", "/s", "0/s", "-1/s", "1.5/s", "1/day", "1/1s", "1/s/s", "x/s", "99999999999999999999/s"} {
		_, err := policy.ParseRate(text)
		assert.Error(t, err, "rate "+quote(text)+`: want a positive number of executions per s, min or h, as "6000/min"`)
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1023: "1023B", 1024: "1KiB", 1025: "1025B", 64 << 20: "64MiB",
		3 << 29: "1536MiB", 1 << 40: "1024GiB", math.MaxInt64: "9223372036854775807B"} {
		assert.Equal(t, policy.FormatSize(n), want)
		if n < math.MaxInt64 {
			back, err := policy.ParseSize(want)
			assert.NilError(t, err)
			assert.Equal(t, back, n)
		}
	}
}

func quote(s string) string { return `"` + s + `"` }
