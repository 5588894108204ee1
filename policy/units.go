package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var sizeUnits = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1},
}

// ParseSize reads "64MiB", "1.5GiB", "500kB" or a plain number of bytes.
// Binary units are powers of 1024, decimal ones of 1000.
func ParseSize(s string) (int64, error) {
	number, factor := strings.TrimSpace(s), 1.0
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := parseNumber(number)
	if err != nil {
		return 0, fmt.Errorf("size %.100q: want a number of bytes, or one with KiB, MiB or GiB behind it", s)
	}
	if n *= factor; n < 0 || n >= math.MaxInt64 {
		return 0, fmt.Errorf("size %.100q: out of range", s)
	}
	return int64(n), nil
}

// ParseDuration reads "2s", "500ms", "1m30s" or a plain number of seconds.
func ParseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if n, err := parseNumber(s); err == nil {
		if n < 0 || n > float64(math.MaxInt64)/float64(time.Second)/2 {
			return 0, fmt.Errorf("duration %.100q: out of range", s)
		}
		return time.Duration(n * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("duration %.100q: want a number of seconds, or one with ms, s, m or h behind it", s)
	}
	return d, nil
}

// parseNumber is strconv.ParseFloat without hexadecimal, infinities and signs.
func parseNumber(s string) (float64, error) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}

// A Rate is a number of executions in a time.
type Rate struct {
	N   int
	Per time.Duration
}

// ParseRate reads "6000/min", "10/s" or "100/h".
func ParseRate(s string) (Rate, error) {
	count, unit, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	per := map[string]time.Duration{
		"s": time.Second, "sec": time.Second, "second": time.Second,
		"m": time.Minute, "min": time.Minute, "minute": time.Minute,
		"h": time.Hour, "hour": time.Hour,
	}[strings.TrimSpace(unit)]
	if !ok || err != nil || n <= 0 || per == 0 {
		return Rate{}, fmt.Errorf("rate %.100q: want a positive number of executions per s, min or h, as \"6000/min\"", s)
	}
	return Rate{n, per}, nil
}

func (r Rate) String() string {
	unit := map[time.Duration]string{time.Second: "s", time.Minute: "min", time.Hour: "h"}[r.Per]
	return fmt.Sprintf("%d/%s", r.N, unit)
}

// FormatSize writes a number of bytes as people do: the largest binary unit
// that divides it.
func FormatSize(n int64) string {
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes && n%u.bytes == 0 {
			return fmt.Sprintf("%d%s", n/u.bytes, u.suffix)
		}
	}
	return fmt.Sprintf("%dB", n)
}
