package jobspec

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// placeFault says what is wrong with a path inside: it must be clean, relative and stay
// below its root. Anything else is refused, never cleaned.
func placeFault(s string) *fault {
	if message := textFault(s, maxPlace, oneLine); message != "" {
		return &fault{message, "write a short, plain path"}
	}
	if s == "" || s == "." || s == "./" {
		return &fault{"names no file", "write a path inside the folder, such as result.csv"}
	}
	if strings.Contains(s, `\`) {
		return &fault{"holds a backslash", "separate folders with /"}
	}
	if strings.HasPrefix(s, "/") {
		return &fault{"is an absolute path", "write it relative to its folder"}
	}
	if strings.Contains(s, "${") {
		return &fault{"holds a reference; paths are not expanded", "write the path out"}
	}
	steps := strings.Split(s, "/")
	if slices.Contains(steps, "..") {
		return &fault{"leaves its folder by ..", "write a path that stays inside"}
	}
	if len(steps) > maxPlaceDepth {
		return &fault{fmt.Sprintf("is more than %d folders deep", maxPlaceDepth), "use fewer folders"}
	}
	for _, step := range steps {
		if len(step) > maxPlaceStep {
			return &fault{fmt.Sprintf("has a name longer than %d bytes", maxPlaceStep), "shorten it"}
		}
	}
	if slices.Contains(steps, ".") || slices.Contains(steps[:len(steps)-1], "") {
		clean := filepath.ToSlash(filepath.Clean(s))
		return &fault{"is not in its shortest form", "write " + quote(clean)}
	}
	return nil
}

// overlap reports pairs of paths that are equal or stand inside one another. Keys are
// where a path was written; the later one of a pair, in sorted order, is to blame.
func overlap(places map[path]string, clash func(later, earlier path, same bool)) {
	type entry struct {
		at    path
		place string
	}
	var entries []entry
	for at, place := range places {
		entries = append(entries, entry{at, strings.TrimSuffix(place, "/") + "/"})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(string(a.at), string(b.at)) })
	for i, later := range entries {
		for _, earlier := range entries[:i] {
			if later.place == earlier.place {
				clash(later.at, earlier.at, true)
				break
			}
			if strings.HasPrefix(later.place, earlier.place) || strings.HasPrefix(earlier.place, later.place) {
				clash(later.at, earlier.at, false)
				break
			}
		}
	}
}

// refusedEnv lists what changes how a loader, a C library, a shell or a language runtime
// behaves, and what the sandbox itself sets. An entry that ends in "*" is a prefix.
func refusedEnv() []string {
	return []string{
		"LD_*", "DYLD_*", "GCONV_PATH", "GLIBC_TUNABLES", "MALLOC_*", "LOCPATH", "NLSPATH", "GETCONF_DIR",
		"HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_*", "NIS_PATH", "TZDIR",
		"PATH", "HOME", "TMPDIR", "TMP", "TEMP", "PWD", "OLDPWD", "SHELL", "USER", "LOGNAME",
		"ENV", "IFS", "CDPATH", "GLOBIGNORE", "BASH*", "SHELLOPTS", "PS4", "PROMPT_COMMAND", "ZDOTDIR", "FPATH",
		"PYTHON*", "_PYTHON*", "VIRTUAL_ENV", "CONDA_*", "PIP_*",
		"NODE_*", "NPM_*", "DENO_*", "BUN_*",
		"R_*", "RENV_*", "JULIA_*",
		"PERL*", "RUBY*", "GEM_*", "BUNDLE_*", "PHP*", "LUA_*", "TCL*", "GUILE_*", "OCAML*", "ERL_*",
		"JAVA_*", "_JAVA_*", "JDK_*", "CLASSPATH",
		"DOTNET_*", "CORECLR_*", "COMPLUS_*", "MONO_*", "GODEBUG", "GOTRACEBACK",
		"OPENSSL_*", "SSLKEYLOGFILE", "PLUGIN_*", "CLOISTER_*",
	}
}

// refusedEnvPattern is the list as one pattern, case folded by hand for ECMA 262.
func refusedEnvPattern() string {
	var alternatives []string
	for _, entry := range refusedEnv() {
		prefix, isPrefix := strings.CutSuffix(entry, "*")
		var b strings.Builder
		for _, r := range prefix {
			if r == '_' {
				b.WriteRune(r)
			} else if lower := strings.ToLower(string(r)); lower != string(r) {
				b.WriteString("[" + string(r) + lower + "]")
			} else {
				b.WriteRune(r)
			}
		}
		if !isPrefix {
			b.WriteString("$")
		}
		alternatives = append(alternatives, b.String())
	}
	return "^(" + strings.Join(alternatives, "|") + ")"
}

// envRefused reports whether a job may not set the variable. Case does not matter.
func envRefused(name string) bool {
	name = strings.ToUpper(name)
	return slices.ContainsFunc(refusedEnv(), func(entry string) bool {
		prefix, isPrefix := strings.CutSuffix(entry, "*")
		return name == prefix || isPrefix && strings.HasPrefix(name, prefix)
	})
}

// scheme is how something begins that is no path.
var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// hostPathFault says what is wrong with a path of the operator's disk.
func hostPathFault(s string) *fault {
	switch message := textFault(s, maxHostPath, oneLine); {
	case message != "":
		return &fault{message, "write a plain path"}
	case s == "":
		return &fault{"is empty", "write a path"}
	case strings.HasPrefix(s, "s3://"):
		return &fault{"s3:// is not in this version yet", "download it first and name the file"}
	case scheme.MatchString(s):
		return &fault{"is a URL, not a path", "download it first and name the file"}
	case strings.HasPrefix(s, "~"):
		return &fault{"begins with ~, which is not expanded", "write the path out; ./~ is a file of that name"}
	case strings.Contains(s, "${"):
		return &fault{"holds a reference; paths are not expanded", "write the path out"}
	}
	return nil
}
