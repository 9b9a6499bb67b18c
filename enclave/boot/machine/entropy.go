package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Source gives entropy: the Nitro Security Module.
type Source interface {
	// Random fills p.
	Random(ctx context.Context, p []byte) error
}

// seedBytes is how much entropy the kernel is given: twice what its pool holds.
const seedBytes = 512

// generator is where a kernel with a choice of hardware generators says which one it takes, and nsmGenerator
// what the driver of the module is called there (linux/drivers/misc/nsm.c).
const (
	generator    = "/sys/devices/virtual/misc/hw_random/rng_current"
	nsmGenerator = "nsm-hwrng"
)

// ErrGenerator: the kernel takes its random numbers from somebody else than the module.
var ErrGenerator = errors.New("the kernel's hardware generator is not the Nitro Security Module's")

// Seed gives the kernel the module's entropy, so that every key that is made from now on has it in it. A
// kernel that has a hardware generator must have the module's: another would be the parent's choice.
func Seed(ctx context.Context, from Source) error {
	if err := seed(ctx, from, generator, credit); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	return nil
}

// seed is Seed, by a file of the kernel and by what takes the entropy.
func seed(ctx context.Context, from Source, path string, take func([]byte) error) error {
	chooseGenerator(path)
	if err := checkGenerator(path); err != nil {
		return err
	}
	entropy := make([]byte, seedBytes)
	defer clear(entropy)
	if err := from.Random(ctx, entropy); err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	if err := take(entropy); err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	return nil
}

// chooseGenerator has the kernel take the module's: by itself it takes the one with the best opinion of itself.
// What came of it is for [checkGenerator].
func chooseGenerator(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return // there is none
	}
	_, _ = f.WriteString(nsmGenerator)
	_ = f.Close()
}

// checkGenerator is about the file at path. A kernel without hardware generators has none.
func checkGenerator(path string) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hardware generator: %w", err)
	}
	if name := strings.TrimSpace(string(raw)); name != nsmGenerator {
		return fmt.Errorf("%w: it is %.40q, not %q", ErrGenerator, name, nsmGenerator)
	}
	return nil
}

// credit mixes seed into the kernel's pool, counts all of it as entropy, and has the kernel's generator
// begin anew with it (random(4), RNDADDENTROPY).
func credit(seed []byte) error {
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	pool := binary.NativeEndian.AppendUint32(nil, uint32(len(seed)*8))
	pool = append(binary.NativeEndian.AppendUint32(pool, uint32(len(seed))), seed...)
	defer clear(pool)
	//nolint:gosec // struct rand_pool_info ends in an array of no fixed length, which Go has no type for
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0])))
	if errno != 0 {
		return fmt.Errorf("adding to the kernel's pool: %w", errno)
	}
	// Kernels before 4.17 do so by themselves.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("reseeding the kernel's generator: %w", err)
	}
	return nil
}
