package sdk

import (
	"errors"
	"io"
	"os"
	"path"

	"github.com/cloister-run/cloister/policies/abi"
)

// Rewrite writes a replacement for an artifact: every file of it anew, under its own path, with
// what write makes of it. Folders without a file are left out. It is for [abi.Redact], and counts
// once the policy answers [Redacted].
func (c *Context) Rewrite(a Artifact, write func(file File, in io.Reader, out io.Writer) error) error {
	if c.files.Redacted == nil {
		return errNoFiles
	}
	made := map[string]bool{".": true}
	if a.Kind != "file" { // also where it has no file
		if err := c.makeFolder(string(a.Channel), made); err != nil {
			return err
		}
	}
	for file, err := range a.All() {
		if err != nil {
			return err
		}
		if err := c.makeFolder(path.Dir(file.name), made); err != nil {
			return err
		}
		if err := c.rewriteFile(file, write); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes a folder and those above it.
func (c *Context) makeFolder(name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	made[name] = true
	if err := c.makeFolder(path.Dir(name), made); err != nil {
		return err
	}
	return c.files.Redacted.Mkdir(name)
}

func (c *Context) rewriteFile(file File, write func(file File, in io.Reader, out io.Writer) error) error {
	in, err := file.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.files.Redacted.Create(file.name)
	if err != nil {
		return err
	}
	return errors.Join(write(file, in, out), out.Close())
}

// Folder is an [abi.Sink] that writes below a folder, without a quota.
type Folder string

var _ abi.Sink = Folder("")

// Mkdir makes a folder.
func (d Folder) Mkdir(name string) error { return os.Mkdir(path.Join(string(d), name), 0o700) }

// Create makes a file.
func (d Folder) Create(name string) (io.WriteCloser, error) {
	return os.OpenFile(path.Join(string(d), name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}
