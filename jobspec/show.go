package jobspec

import (
	"strconv"
	"time"
)

func plain(n int64) string { return strconv.FormatInt(n, 10) }

// bytesOf writes a size with the largest binary unit that divides it.
func bytesOf(n int64) string {
	for _, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if n != 0 && n%units[unit] == 0 {
			return strconv.FormatInt(n/units[unit], 10) + unit
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

func durationOf(n int64) string { return time.Duration(n).String() }
