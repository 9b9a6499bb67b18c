package rego

import (
	"encoding/json"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"time"
)

// The only zone is UTC: others are a matter of the machine.

var layouts = map[string]string{
	"ANSIC": time.ANSIC, "UnixDate": time.UnixDate, "RubyDate": time.RubyDate, "RFC822": time.RFC822,
	"RFC822Z": time.RFC822Z, "RFC850": time.RFC850, "RFC1123": time.RFC1123, "RFC1123Z": time.RFC1123Z,
	"RFC3339": time.RFC3339, "RFC3339Nano": time.RFC3339Nano,
}

// layout is one of Go's by its name, or the text itself.
func layout(name string) string {
	if known, ok := layouts[name]; ok {
		return known
	}
	return name
}

// moment reads nanoseconds since 1970, or an array of them, a zone and a layout.
func moment(v value) (at time.Time, form string, err error) {
	if parts, ok := v.([]value); ok {
		if len(parts) == 0 {
			return time.Time{}, "", errUndefined
		}
		if len(parts) > 1 && parts[1] != "" && parts[1] != "UTC" {
			return time.Time{}, "", errUndefined
		}
		if len(parts) > 2 {
			if form, err = text(parts[2]); err != nil {
				return time.Time{}, "", err
			}
		}
		v = parts[0]
	}
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, "", errUndefined
	}
	ns, accuracy := float(n).Int64()
	if accuracy != big.Exact {
		return time.Time{}, "", errUndefined
	}
	return time.Unix(0, ns).UTC(), form, nil
}

// nanoseconds is a time as Rego has it, if 64 bits can say it.
func nanoseconds(at time.Time) (value, error) {
	if at.Before(time.Unix(0, math.MinInt64)) || at.After(time.Unix(0, math.MaxInt64)) {
		return nil, errUndefined
	}
	return number64(at.UnixNano()), nil
}

// timeNow is the time of the request.
func timeNow(r *run, _ []value) (value, error) { return nanoseconds(r.now) }

func timeParse(form, s string) (value, error) {
	at, err := time.Parse(layout(form), s)
	if err != nil {
		return nil, err
	}
	return nanoseconds(at)
}

func timeParseRFC3339(s string) (value, error) { return timeParse(time.RFC3339, s) }

// days is a part of a duration in OPA's own units, which Go does not have.
var days = regexp.MustCompile(`([0-9]*\.?[0-9]*)([dwy])`)

func timeParseDuration(s string) (value, error) {
	hours := map[string]float64{"d": 24, "w": 7 * 24, "y": 365 * 24}
	s = days.ReplaceAllStringFunc(s, func(part string) string {
		amount := part[:len(part)-1]
		n, err := strconv.ParseFloat(amount, 64)
		if err != nil {
			return part // which time.ParseDuration does not know
		}
		return strconv.FormatFloat(n*hours[part[len(amount):]], 'f', -1, 64) + "h"
	})
	duration, err := time.ParseDuration(s)
	return number64(int64(duration)), err
}

func timeFormat(_ *run, args []value) (value, error) {
	at, form, err := moment(args[0])
	if form == "" {
		form = time.RFC3339Nano
	}
	return at.Format(layout(form)), err
}

func timeDate(_ *run, args []value) (value, error) {
	at, _, err := moment(args[0])
	year, month, day := at.Date()
	return []value{number(year), number(int(month)), number(day)}, err
}

func timeClock(_ *run, args []value) (value, error) {
	at, _, err := moment(args[0])
	hour, minute, second := at.Clock()
	return []value{number(hour), number(minute), number(second)}, err
}

func timeWeekday(_ *run, args []value) (value, error) {
	at, _, err := moment(args[0])
	return at.Weekday().String(), err
}

func timeAddDate(_ *run, args []value) (value, error) {
	at, _, err := moment(args[0])
	var parts [3]int
	for i := range parts {
		if err == nil {
			parts[i], err = integer(args[1+i])
		}
		if parts[i] > math.MaxInt32 || parts[i] < math.MinInt32 {
			err = errUndefined
		}
	}
	if err != nil {
		return nil, err
	}
	return nanoseconds(at.AddDate(parts[0], parts[1], parts[2]))
}

// timeDiff is the time between two, in years, months, days, hours, minutes and seconds: the calendar is
// walked from the earlier.
func timeDiff(_ *run, args []value) (value, error) {
	from, _, err := moment(args[0])
	if err != nil {
		return nil, err
	}
	to, _, err := moment(args[1])
	if err != nil {
		return nil, err
	}
	if from.After(to) {
		from, to = to, from
	}
	from, to = from.Truncate(time.Second), to.Truncate(time.Second)
	hour, minute, second := clockBetween(from, to)
	day := to.Day() - from.Day()
	if sinceMidnight(to) < sinceMidnight(from) {
		day--
	}
	month := int(to.Month()) - int(from.Month())
	if day < 0 { // borrow the days of the month in which it begins
		day += time.Date(from.Year(), from.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
		month--
	}
	year := to.Year() - from.Year()
	if month < 0 {
		month += 12
		year--
	}
	return []value{number(year), number(month), number(day), number(hour), number(minute), number(second)}, nil
}

func sinceMidnight(at time.Time) int {
	hour, minute, second := at.Clock()
	return hour*3600 + minute*60 + second
}

func clockBetween(from, to time.Time) (hour, minute, second int) {
	between := (sinceMidnight(to) - sinceMidnight(from) + 24*3600) % (24 * 3600)
	return between / 3600, between / 60 % 60, between % 60
}
