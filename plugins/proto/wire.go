// Package proto is the executor protocol as both of its ends must agree on it: the go-plugin
// handshake, the bounds of executor.v1, and the one adapter between [executor.Executor] and
// generated code. plugins/host is the one end, plugins/sdk the other.
//
// The client side trusts nothing that a plugin answers: what breaks a bound of
// executor.proto is [executor.ErrGone], and no text of the plugin's ever becomes part of an
// error. The package opens no connection and imports nothing of go-plugin.
package proto

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cloister-run/cloister/plugins/executor"
)

// The go-plugin handshake. The cookie tells a person who starts a plugin by hand that it is
// one; it authenticates nothing.
const (
	// Version is the protocol's version: executor.v1.
	Version = 1
	// PluginName is the name of the one plugin in go-plugin's set.
	PluginName  = "executor"
	CookieKey   = "CLOISTER_EXECUTOR"
	CookieValue = "executor.v1"
)

// Bounds of messages, as executor.proto states them.
const (
	MaxRequest = 4 << 20
	MaxReply   = 64 << 10
	MaxHeaders = 16 << 10
)

// Bounds of a task, as executor.proto states them.
const (
	// MaxPath is the longest path (Linux, PATH_MAX less its NUL).
	MaxPath = 4095
	MaxArgs = 4096
	// MaxArg is the longest argument (Linux, MAX_ARG_STRLEN less its NUL).
	MaxArg     = 128<<10 - 1
	MaxEnv     = 256
	MaxEnvName = 255
	// MaxTaskBytes bounds arguments and environment together.
	MaxTaskBytes = 1 << 20
	// maxLabel bounds a name or a version that a plugin tells.
	maxLabel = 64
)

// CheckTask reports everything in a task that no executor may be given.
func CheckTask(t executor.Task) error {
	var problems []error
	add := func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf("task.%s: "+format, append([]any{field}, args...)...))
	}
	absolute := func(field, value string) {
		if problem := badPath(value); problem != "" {
			add(field, "%s", problem)
		} else if !path.IsAbs(value) || path.Clean(value) != value {
			add(field, "is no clean absolute path")
		}
	}
	absolute("application", t.Application)
	absolute("dir", t.Dir)
	for _, optional := range []struct{ field, value string }{{"stdout", t.Stdout}, {"stderr", t.Stderr}, {"environment", t.Environment}} {
		if optional.value != "" {
			absolute(optional.field, optional.value)
		}
	}
	if problem := badPath(t.Entrypoint); problem != "" {
		add("entrypoint", "%s", problem)
	}
	if len(t.Args) > MaxArgs {
		add("args", "%d arguments, at most %d", len(t.Args), MaxArgs)
	}
	if len(t.Env) > MaxEnv {
		add("env", "%d variables, at most %d", len(t.Env), MaxEnv)
	}
	total := 0
	for i, arg := range t.Args {
		total += len(arg)
		if problem := badString(arg, MaxArg); problem != "" {
			add(fmt.Sprintf("args[%d]", i), "%s", problem)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		total += len(name) + 1 + len(t.Env[name])
		if !envName(name) {
			add("env", "%.80q is no variable name", name)
		} else if problem := badString(t.Env[name], MaxArg-1-len(name)); problem != "" {
			add("env."+name, "%s", problem)
		}
	}
	if total > MaxTaskBytes {
		add("args", "arguments and environment take %d bytes, at most %d", total, MaxTaskBytes)
	}
	return errors.Join(problems...)
}

func badPath(p string) string {
	if p == "" {
		return "is empty"
	}
	return badString(p, MaxPath)
}

func badString(s string, limit int) string {
	switch {
	case len(s) > limit:
		return fmt.Sprintf("%d bytes, at most %d", len(s), limit)
	case strings.ContainsRune(s, 0):
		return "contains NUL"
	case !utf8.ValidString(s):
		return "is no UTF-8"
	}
	return ""
}

// envName reports whether s is a portable variable name (POSIX.1, "Name").
func envName(s string) bool {
	if s == "" || len(s) > MaxEnvName || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Label reports whether s can be the name or version that a plugin tells of itself or of
// its runtime: 1 to 64 bytes of printable ASCII.
func Label(s string) bool {
	if s == "" || len(s) > maxLabel {
		return false
	}
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}
