package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"sync"
)

// The payload is a stream of Tink's AES256-GCM-HKDF with segments of 1 MiB
// (developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming; the key template
// AES256_GCM_HKDF_1MB): a header, then segments that are sealed each under a nonce of the
// stream's prefix, the segment's number and a byte that says whether it is the last.
//
// The code is this package's own since Tink's copies every byte twice and uses one processor;
// tests hold both against each other, each way.
const (
	segmentSize = 1 << 20 // of ciphertext; the first one counts the stream's header in
	saltSize    = 32
	prefixSize  = 7
	tagSize     = 16
	// streamHeader is a byte that says how long it is, the salt and the nonce prefix.
	streamHeader = 1 + saltSize + prefixSize
)

// errTooLong says that a stream has no number left for another segment.
var errTooLong = errors.New("the payload is too long for its format")

// stream is the state that both directions share.
type stream struct {
	aead   cipher.AEAD
	prefix [prefixSize]byte
}

// newStream derives the key of one stream. opening is its header, aad what it is bound to.
func newStream(key, opening, aad []byte) (*stream, error) {
	derived, err := hkdf.Key(sha256.New, key, opening[1:1+saltSize], string(aad), KeySize)
	if err != nil {
		return nil, err
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &stream{aead: aead, prefix: [prefixSize]byte(opening[1+saltSize:])}, nil
}

// newStreamHeader is a fresh one.
func newStreamHeader() []byte {
	b := make([]byte, streamHeader)
	b[0] = streamHeader
	_, _ = rand.Read(b[1:]) // never fails: crypto/rand
	return b
}

func (s *stream) nonce(index uint32, last bool) []byte {
	b := binary.BigEndian.AppendUint32(append(make([]byte, 0, 12), s.prefix[:]...), index)
	if last {
		return append(b, 1)
	}
	return append(b, 0)
}

// segment is one on its way: filled by one goroutine, worked on by a second, taken by a third.
type segment struct {
	buf   []byte // of segmentSize, the segment's for ever; nil until it is first used
	data  []byte // what of buf is filled
	index uint32
	// work seals or opens the segment, once: whoever calls it first does it, and everybody
	// returns when it is done.
	work func()
	err  error
}

// limit is how much ciphertext a segment holds.
func limit(index uint32) int {
	if index == 0 {
		return segmentSize - streamHeader
	}
	return segmentSize
}

// next numbers the segment that follows.
func next(index uint32) (uint32, error) {
	if index == math.MaxUint32-1 { // Tink takes no higher number
		return 0, errTooLong
	}
	return index + 1, nil
}

// seal encrypts the segment in place, beside whoever called.
func (s *stream) seal(seg *segment, last bool) {
	nonce := s.nonce(seg.index, last)
	seg.work = sync.OnceFunc(func() { seg.data = s.aead.Seal(seg.buf[:0], nonce, seg.data, nil) })
	go seg.work()
}

// open decrypts the segment in place, beside whoever called.
func (s *stream) open(seg *segment, last bool) {
	nonce := s.nonce(seg.index, last)
	seg.work = sync.OnceFunc(func() {
		if seg.data, seg.err = s.aead.Open(seg.buf[:0], nonce, seg.data, nil); seg.err != nil {
			seg.err = fail(ErrTampered, "get the bundle again; it may be damaged, cut short or continued",
				"segment %d does not authenticate", seg.index)
		}
	})
	go seg.work()
}

// newSegments are all that a stream ever holds: a few for the goroutines that fill and take
// them, and one for each processor up to a bound, so that memory has one too.
func newSegments() chan *segment {
	const mostBusy = 8
	n := min(runtime.GOMAXPROCS(0), mostBusy) + 3
	free := make(chan *segment, n)
	for range n {
		free <- &segment{}
	}
	return free
}

// reuse empties a segment for number index.
func (s *segment) reuse(index uint32) *segment {
	if s.buf == nil {
		s.buf = make([]byte, segmentSize)
	}
	s.index, s.data, s.err = index, s.buf[:0], nil
	return s
}
