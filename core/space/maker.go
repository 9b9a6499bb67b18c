package space

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cloister-run/cloister/core/internal/mounter"
)

// firstOwner is the first of the users that jobs run as, and owners is how many there are.
// The range is above what distributions give to people, containers and services.
const (
	firstOwner = 1_879_048_192 // 0x70000000
	owners     = 65_536
)

// socketBytes bounds what is in Socket, where the application may write like its executor: one
// socket belongs there. A file system of its own keeps the rest from other jobs' room.
const socketBytes = 64 << 10

// Maker makes spaces whose Work and Redacted are a file system of their own, as large as the
// job's disk limit. It is safe for concurrent use.
type Maker struct {
	dir string
	// distinct says that every job can have a user of its own.
	distinct bool
	mounter  mounter.Mounter

	mu   sync.Mutex
	next int
	used map[int]bool
}

// NewMaker makes spaces below dir, an empty folder in memory. distinct gives every job a user
// of its own, which takes an enclave that may become any user.
func NewMaker(dir string, distinct bool) *Maker {
	return NewMakerWith(dir, distinct, mounter.Tmpfs{})
}

// NewMakerWith is NewMaker with another way to mount. Only tests below core can call it: nobody
// else can name its third argument.
func NewMakerWith(dir string, distinct bool, m mounter.Mounter) *Maker {
	return &Maker{dir: dir, distinct: distinct, mounter: m, used: map[int]bool{}}
}

// Make makes the folders of one job. id is one component of a path, and no two spaces share
// one; disk bounds Work and Redacted together, in bytes, and sealed bounds Sealed; where that is 0
// there is none. Where it fails nothing is left.
func (m *Maker) Make(id string, disk, sealed int64) (_ *Space, err error) {
	if !filepath.IsLocal(id) || filepath.Base(id) != id || id == "." {
		return nil, fmt.Errorf("space: %.80q is no name of a folder", id)
	}
	root := filepath.Join(m.dir, id)
	if err := os.Mkdir(root, 0o711); err != nil {
		return nil, fmt.Errorf("space: %w", err)
	}
	owner := m.owner()
	s := &Space{
		Staging:  filepath.Join(root, "assets", "staging"),
		Assets:   filepath.Join(root, "assets", "job"),
		Work:     filepath.Join(root, "disk", "work"),
		Redacted: filepath.Join(root, "disk", "redacted"),
		Socket:   filepath.Join(root, "socket"),
		Own:      filepath.Join(root, "own"),
		Owner:    owner,
		root:     root,
		bin:      filepath.Join(root, "disk", "bin"),
		mounter:  m.mounter,
		free:     func() { m.free(owner) },
	}
	type mount struct {
		dir  string
		size int64
	}
	mounts := []mount{{filepath.Join(root, "disk"), disk}, {s.Socket, socketBytes}}
	if sealed > 0 {
		s.Sealed = filepath.Join(root, "sealed")
		mounts = append(mounts, mount{s.Sealed, sealed})
	}
	for _, fs := range mounts {
		if err = s.mounter.Mount(fs.dir, fs.size); err != nil {
			break
		}
		s.mounts = append(s.mounts, fs.dir)
	}
	if err == nil {
		err = s.make()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("space: %w", err), s.Wipe())
	}
	return s, nil
}

// owner gives a user that no other space has. There are more users than jobs can be.
func (m *Maker) owner() int {
	if !m.distinct {
		return -1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for range owners {
		m.next = (m.next + 1) % owners
		if !m.used[m.next] {
			break
		}
	}
	m.used[m.next] = true
	return firstOwner + m.next
}

// free takes back the user of a space of which nothing is left.
func (m *Maker) free(owner int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.used, owner-firstOwner)
}
