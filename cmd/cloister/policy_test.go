package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
)

// probe is a policy that was assembled by hand: at each point it writes a fixed answer, or does
// one of the things that a policy must not do. It tells the points apart by one byte of the
// request, which begins with {"abi":1,"point":" (policies/abi, Request).
//
// Compiled from Go the same policy costs more than a second of every run.
type probe struct{ admit, ingress, egress string }

const pointAt = len(`{"abi":1,"point":"`)

// The misdeeds; everything else is an answer.
var misdeeds = map[string][]byte{
	"trap": {0x00},                                                                         // unreachable
	"loop": {0x03, 0x40, 0x0c, 0x00, 0x0b},                                                 // loop br 0 end
	"eat":  {0x03, 0x40, 0x41, 0x10, 0x40, 0x00, 0x41, 0x7f, 0x47, 0x0d, 0x00, 0x0b, 0x00}, // loop grow(16 pages) != -1 br_if 0 end unreachable
	"mute": {},
}

// Where things are in the probe's memory.
const (
	iovec   = 0
	answers = 1024
	request = 32 << 10
)

func (p probe) module() []byte {
	var data []byte
	body := []byte{0x00} // no locals
	// fd_read(0, iovec, 1, 16), into request
	body = append(body, call(0, 0)...)
	for _, at := range []struct {
		letter byte
		does   string
	}{{'a', p.admit}, {'i', p.ingress}, {'e', p.egress}} {
		body = append(body, i32(request+pointAt)...)
		body = append(body, 0x2d, 0x00, 0x00) // i32.load8_u
		body = append(body, i32(int(at.letter))...)
		body = append(body, 0x46, 0x04, 0x40) // i32.eq if
		if code, ok := misdeeds[at.does]; ok {
			body = append(body, code...)
		} else {
			// iovec = {answers+len(data), len}; fd_write(1, iovec, 1, 16)
			body = append(body, store(iovec, answers+len(data))...)
			body = append(body, store(iovec+4, len(at.does))...)
			body = append(body, call(1, 1)...)
			data = append(data, at.does...)
		}
		body = append(body, 0x0b) // end
	}
	body = append(body, 0x0b)

	reading := append(le32(request), le32(16<<10)...)
	wasi := func(name string) []byte {
		return append(append(str("wasi_snapshot_preview1"), str(name)...), 0x00, 0x00)
	}
	m := []byte("\x00asm\x01\x00\x00\x00")
	m = append(m, section(1, 2, []byte{0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f}, []byte{0x60, 0, 0})...)
	m = append(m, section(2, 2, wasi("fd_read"), wasi("fd_write"))...)
	m = append(m, section(3, 1, []byte{1})...)
	m = append(m, section(5, 1, []byte{0x00, 1})...)
	m = append(m, section(7, 2, append(str("memory"), 0x02, 0), append(str("_start"), 0x00, 2))...)
	m = append(m, section(10, 1, append(uleb(len(body)), body...))...)
	m = append(m, section(11, 2, segment(iovec, reading), segment(answers, data))...)
	return m
}

// pack writes the probe with a manifest that declares the code "no".
func (p probe) pack(path string) error {
	for _, answer := range []string{p.admit, p.ingress, p.egress} {
		if len(answer) > 8<<10 {
			return fmt.Errorf("an answer of %d bytes has no place in the probe", len(answer))
		}
	}
	packed, err := policies.Pack(p.module(), abi.Manifest{
		ABI: abi.Version, Name: "probe", Codes: []abi.Code{{Code: "no", Hint: "the probe says no"}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, packed, 0o644)
}

// newProbe reads POINT=DOES; a point that is left out allows, and at admit consents to channels.
func newProbe(args []string) (probe, error) {
	p := probe{admit: `{"allow":true,"channels":["outputs.result"]}`, ingress: `{"allow":true}`, egress: `{"allow":true}`}
	for _, arg := range args {
		point, does, _ := strings.Cut(arg, "=")
		switch point {
		case "admit":
			p.admit = does
		case "ingress":
			p.ingress = does
		case "egress":
			p.egress = does
		default:
			return p, fmt.Errorf("there is no point %q", point)
		}
	}
	return p, nil
}

func call(function, fd int) []byte {
	var code []byte
	for _, n := range []int{fd, iovec, 1, 16} {
		code = append(code, i32(n)...)
	}
	return append(code, 0x10, byte(function), 0x1a) // call, drop
}

func store(at, value int) []byte {
	return append(append(i32(at), i32(value)...), 0x36, 0x02, 0x00) // i32.store
}

func i32(n int) []byte { return append([]byte{0x41}, sleb(n)...) }

func section(id byte, count int, items ...[]byte) []byte {
	content := uleb(count)
	for _, item := range items {
		content = append(content, item...)
	}
	return append(append([]byte{id}, uleb(len(content))...), content...)
}

func segment(at int, data []byte) []byte {
	return append(append(append([]byte{0x00}, i32(at)...), 0x0b), append(uleb(len(data)), data...)...)
}

func str(s string) []byte { return append(uleb(len(s)), s...) }

func le32(n int) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)} }

func uleb(n int) []byte {
	var out []byte
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

func sleb(n int) []byte {
	var out []byte
	for {
		b := byte(n & 0x7f)
		n >>= 7
		if n == 0 && b&0x40 == 0 || n == -1 && b&0x40 != 0 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}
