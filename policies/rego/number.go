package rego

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// maxRange bounds the numbers of a range: each takes some bytes of the instance.
const maxRange = 100_000

// rangeStep counts from one number to another, upwards or downwards.
func rangeStep(_ *run, args []value) (value, error) {
	var n [3]int
	for i := range n {
		var err error
		if n[i], err = integer(args[i]); err != nil {
			return nil, err
		}
	}
	from, to, step := n[0], n[1], n[2]
	const far = 1 << 60
	if step <= 0 || max(from, to) > far || min(from, to) < -far {
		return nil, errUndefined
	}
	between := max(to-from, from-to)
	if between/step >= maxRange {
		return nil, fmt.Errorf("%w: a range of %d numbers", errBound, between/step+1)
	}
	if from > to {
		step = -step
	}
	all := []value{}
	for i := 0; i <= between/max(step, -step); i++ {
		all = append(all, number(from+i*step))
	}
	return all, nil
}

// randIntn and uuidNew are functions of their argument alone: two decisions on one request are the same.
func randIntn(_ *run, args []value) (value, error) {
	key, err := text(args[0])
	if err != nil {
		return nil, err
	}
	n, err := integer(args[1])
	if err != nil || n == 0 {
		return number(0), err
	}
	sum := sha256.Sum256([]byte("rand.intn " + strconv.Itoa(max(n, -n)) + " " + key))
	return number(int(binary.BigEndian.Uint64(sum[:]) >> 1 % uint64(max(n, -n)))), nil
}

func uuidNew(key string) (value, error) {
	sum := sha256.Sum256([]byte("uuid.rfc4122 " + key))
	sum[6] = sum[6]&0x0f | 0x40 // version 4 (RFC 4122, 4.1.3)
	sum[8] = sum[8]&0x3f | 0x80 // its variant (4.1.1)
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]), nil
}

func cidrIsValid(_ *run, args []value) (value, error) {
	s, err := text(args[0])
	if err == nil {
		_, _, err = net.ParseCIDR(s)
	}
	return err == nil, nil
}

// version is a version's text as semver.org has it, 2.0.0. OPA takes a "v" before it.
var version = regexp.MustCompile(`^v?(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)` +
	`(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?` +
	`(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?$`)

// semver reads a version: three numbers, and what stands before it is released.
func semver(s string) (numbers [3]int64, before string, err error) {
	parts := version.FindStringSubmatch(s)
	if parts == nil {
		return numbers, "", errUndefined
	}
	for i := range numbers {
		if numbers[i], err = strconv.ParseInt(parts[1+i], 10, 64); err != nil {
			return numbers, "", errUndefined
		}
	}
	return numbers, parts[4], nil
}

func semverIsValid(_ *run, args []value) (value, error) {
	s, err := text(args[0])
	if err == nil {
		_, _, err = semver(s)
	}
	return err == nil, nil
}

func semverCompare(a, b string) (value, error) {
	first, before, err := semver(a)
	if err != nil {
		return nil, err
	}
	second, other, err := semver(b)
	if err != nil {
		return nil, err
	}
	for i := range first {
		if c := cmp.Compare(first[i], second[i]); c != 0 {
			return number(c), nil
		}
	}
	return number(compareBefore(before, other)), nil
}

// compareBefore orders what stands before a release (semver.org, 11): nothing comes last, numbers come
// before words, and fewer before more.
func compareBefore(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(b, a)
	}
	first, second := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(first), len(second)) {
		x, numeric := strconv.ParseUint(first[i], 10, 64)
		y, other := strconv.ParseUint(second[i], 10, 64)
		c := cmp.Compare(first[i], second[i])
		switch {
		case numeric == nil && other == nil:
			c = cmp.Compare(x, y)
		case numeric == nil:
			c = -1
		case other == nil:
			c = 1
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(first), len(second))
}
