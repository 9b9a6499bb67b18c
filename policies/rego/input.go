package rego

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
)

// Bounds of what a policy gets to see of artifacts.
const (
	// maxFileBytes bounds a file whose content is shown, maxContentBytes all of them together.
	maxFileBytes    = 1 << 20
	maxContentBytes = 4 << 20
	// maxEntries bounds the files and folders in the trees of one decision.
	maxEntries = 1_000
)

// ErrInput: what is to be judged cannot be shown to a policy in Rego.
var ErrInput = errors.New("cannot be shown to a policy in Rego")

// Input is a request as a policy in Rego gets it: the JSON that a WASI command reads, and in each artifact
// what is in it. A file gets "format" and, unless that is "none", "content" ([appendContent]); a tree gets "tree",
// its files sorted by path, each with "path", "bytes", "format" and "content". Now is the request's time.
//
// Files holds the artifacts, one entry per channel; nil where there are none. Errors wrap [ErrInput], or are
// those of files.
func Input(question []byte, files fs.FS) (input []byte, now time.Time, err error) {
	var req struct {
		Time      string         `json:"time"`
		Artifacts []abi.Artifact `json:"artifacts"`
	}
	if err := json.Unmarshal(question, &req); err != nil {
		return nil, now, fmt.Errorf("%w: %w", ErrInput, err)
	}
	if !exact(string(question)) { // a configuration can say a thing twice
		return nil, now, fmt.Errorf("%w: the request has a key twice, or nests too deep", ErrInput)
	}
	if now, err = time.Parse(time.RFC3339, req.Time); err != nil {
		return nil, now, fmt.Errorf("%w: %w", ErrInput, err)
	}
	if files == nil || len(req.Artifacts) == 0 {
		return question, now, nil
	}
	bare, err := without(question, "artifacts")
	if err != nil {
		return nil, now, err
	}
	input, err = show(bare, req.Artifacts, files)
	return input, now, err
}

// without is an object of JSON without one of its members.
func without(text []byte, name string) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	delete(members, name)
	out := []byte("{")
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(appendString(out, name), ':'), members[name]...)
	}
	return append(out, '}'), nil
}

// show adds artifacts to a request, an object that has other members: what is in them is large, and JSON already.
func show(req []byte, described []abi.Artifact, files fs.FS) ([]byte, error) {
	s := shower{files: files, left: maxContentBytes, entries: maxEntries, out: bytes.TrimSuffix(req, []byte("}"))}
	s.add(`,"artifacts":[`)
	for i, a := range described {
		if i > 0 {
			s.add(`,`)
		}
		if err := s.artifact(a); err != nil {
			return nil, fmt.Errorf("%s: %w", a.Channel, err)
		}
	}
	s.add(`]}`)
	return s.out, nil
}

// shower appends artifacts to a request.
type shower struct {
	files fs.FS
	out   []byte
	// left is how many bytes of content may still be shown, entries how many files and folders of trees.
	left, entries int
}

func (s *shower) add(text string) { s.out = append(s.out, text...) }

func (s *shower) artifact(a abi.Artifact) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	s.out = append(s.out, text[:len(text)-1]...)
	if a.Kind == "tree" {
		s.add(`,"tree":[`)
		err = s.tree(string(a.Channel))
		s.add(`]`)
	} else {
		err = s.content(string(a.Channel))
	}
	s.add(`}`)
	return err
}

// tree appends the files below root.
func (s *shower) tree(root string) error {
	files, err := s.list(root)
	if err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b found) int { return strings.Compare(a.path, b.path) })
	for i, file := range files {
		if i > 0 {
			s.add(`,`)
		}
		s.add(`{"path":`)
		s.out = appendString(s.out, strings.TrimPrefix(file.path, root+"/"))
		s.add(`,"bytes":`)
		s.out = strconv.AppendInt(s.out, file.bytes, 10)
		if err := s.content(file.path); err != nil {
			return err
		}
		s.add(`}`)
	}
	return nil
}

// found is one file of a tree.
type found struct {
	path  string
	bytes int64
}

// list finds the files below a folder, in no order. What is neither file nor folder cannot be shown.
func (s *shower) list(folder string) ([]found, error) {
	entries, err := fs.ReadDir(s.files, folder)
	if err != nil {
		return nil, err
	}
	if s.entries -= len(entries); s.entries < 0 {
		return nil, fmt.Errorf("%w: more than %d files and folders", ErrInput, maxEntries)
	}
	var all []found
	for _, entry := range entries {
		name := path.Join(folder, entry.Name())
		switch {
		case entry.IsDir():
			below, err := s.list(name)
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		case entry.Type().IsRegular():
			info, err := entry.Info()
			if err != nil {
				return nil, err
			}
			all = append(all, found{name, info.Size()})
		default:
			return nil, fmt.Errorf("%w: neither a file nor a folder", ErrInput)
		}
	}
	return all, nil
}

// content appends the format of a file and its content.
func (s *shower) content(name string) error {
	file, err := s.files.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	most := min(maxFileBytes, s.left)
	text, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err != nil {
		return err
	}
	if len(text) > most {
		s.add(`,"format":"none"`)
		return nil
	}
	s.left -= len(text)
	s.out = appendContent(s.out, string(text))
	return nil
}
