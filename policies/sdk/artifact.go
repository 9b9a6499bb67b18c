package sdk

import (
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"

	"github.com/cloister-run/cloister/policies/abi"
)

// Artifact is what one channel would release.
type Artifact struct {
	abi.Artifact
	files fs.FS
}

// Artifacts returns what the decision is about, sorted by channel; nothing before redact.
func (c *Context) Artifacts() []Artifact {
	artifacts := make([]Artifact, 0, len(c.Request.Artifacts))
	for _, artifact := range c.Request.Artifacts {
		artifacts = append(artifacts, Artifact{artifact, c.files.Artifacts})
	}
	return artifacts
}

// Open opens an artifact that is a file. The caller closes it.
func (a Artifact) Open() (io.ReadCloser, error) {
	if a.Kind != "file" {
		return nil, fmt.Errorf("%s: a %s, not a file", a.Channel, a.Kind)
	}
	return open(a.files, string(a.Channel))
}

// File is one file of an artifact.
type File struct {
	// Path is relative to where the files are and slash-separated; empty if the artifact is a file.
	Path string
	// Bytes is the file's size.
	Bytes int64
	name  string
	files fs.FS
}

// Open opens the file. The caller closes it.
func (f File) Open() (io.ReadCloser, error) { return open(f.files, f.name) }

// All yields every file of the artifact, in the order of their paths. It yields an error and
// stops at what it cannot read, and at anything that is neither file nor folder.
func (a Artifact) All() iter.Seq2[File, error] { return all(a.files, string(a.Channel)) }

// Own yields every file of the assets of the policy's owner. Paths begin with the asset's name:
// "inputs.model/weights.bin", or "inputs.model" alone if the asset is a file.
func (c *Context) Own() iter.Seq2[File, error] { return all(c.files.Own, ".") }

func all(files fs.FS, root string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		if files == nil {
			yield(File{}, errNoFiles)
			return
		}
		err := fs.WalkDir(files, root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() {
				return nil
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s: neither a file nor a folder", root)
			}
			path := name
			if root != "." {
				path = strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
			}
			if !yield(File{Path: path, Bytes: info.Size(), name: name, files: files}, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(File{}, err)
		}
	}
}

func open(files fs.FS, name string) (io.ReadCloser, error) {
	if files == nil {
		return nil, errNoFiles
	}
	return files.Open(name)
}
