package kernel

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// line is a series of versions that is cared for over years.
type line struct {
	major, minor int
	// until is the last month of that.
	until time.Time
}

// longterm are the lines of kernel.org with the end that is projected for each (kernel.org, "Active kernel
// releases", as of November 2026), the newest first.
func longterm() []line {
	december := func(year int) time.Time { return time.Date(year, time.December, 31, 0, 0, 0, 0, time.UTC) }
	return []line{
		{6, 18, december(2028)}, {6, 12, december(2028)}, {6, 6, december(2027)}, {6, 1, december(2027)},
		{5, 15, december(2026)}, {5, 10, december(2026)}, {5, 4, december(2025)}, {4, 19, december(2024)},
	}
}

// Ended says why nobody cares any more for a version, or soon will not, as far as kernel.org goes; empty if
// somebody does, or if it cannot be told.
func Ended(version string, now time.Time) string {
	major, minor, ok := lineOf(version)
	if !ok {
		return ""
	}
	const others = "; whoever distributes it may care for it longer"
	for _, l := range longterm() {
		switch {
		case l.major == major && l.minor == minor && now.After(l.until):
			return fmt.Sprintf("kernel %s: kernel.org has cared for %d.%d until %s%s", version, major, minor, l.until.Format("January 2006"), others)
		case l.major == major && l.minor == minor && now.After(l.until.AddDate(0, -3, 0)):
			return fmt.Sprintf("kernel %s: kernel.org cares for %d.%d until %s%s", version, major, minor, l.until.Format("January 2006"), others)
		case l.major == major && l.minor == minor:
			return ""
		}
	}
	if newest := longterm()[0]; major > newest.major || major == newest.major && minor > newest.minor {
		return "" // newer than what is known here
	}
	return fmt.Sprintf("kernel %s: %d.%d is no line of kernel.org that is cared for%s", version, major, minor, others)
}

// lineOf reads "6.12" in "6.12.41-cloud-amd64".
func lineOf(version string) (major, minor int, ok bool) {
	first, rest, ok := strings.Cut(version, ".")
	if !ok {
		return 0, 0, false
	}
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		rest = rest[:end]
	}
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.Atoi(rest)
	return major, minor, err == nil
}
