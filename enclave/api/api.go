// Package api serves the enclave's HTTP API.
//
// It owns the translation between calls and [core.Runner], and the bounds of what a caller
// may send: sizes, deadlines, how many at once. It trusts no caller: the host relays every
// byte. Errors are answered in the enclave's own words.
package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/policies/abi"
)

// Config configures a Server. Every field is required unless its comment says otherwise.
type Config struct {
	Runner *core.Runner
	// Enclave is what GET /v1/enclave answers; its Memory is filled in.
	Enclave wire.Enclave
	// NSM answers clients that ask whom they talk to.
	NSM attest.Attester
	// Quiet bounds how long a caller may send or take nothing [1 min].
	Quiet time.Duration
	Log   *slog.Logger
}

// Bounds on what callers may do at once, and on headers.
const (
	maxConns  = 256
	maxHeader = 16 << 10
	// maxWhole bounds the bodies that are held whole at once, of at most wire.MaxFront each.
	maxWhole = 16
)

// Server serves one runner.
type Server struct {
	cfg  Config
	http *http.Server
	// whole holds one token for each body that is held whole.
	whole chan struct{}
}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.Quiet == 0 {
		cfg.Quiet = time.Minute
	}
	s := &Server{cfg: cfg, whole: make(chan struct{}, maxWhole)}
	s.http = &http.Server{
		Handler:                      s.routes(),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            cfg.Quiet,
		WriteTimeout:                 cfg.Quiet, // of what a handler writes without touching it, see quiet
		IdleTimeout:                  cfg.Quiet,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers calls until Close. It takes the listener over.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(netutil.LimitListener(l, maxConns))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("api: %w", err)
}

// Close ends every call at once.
func (s *Server) Close() error { return s.http.Close() }

// Errors of calls that no handler takes.
var (
	errNoPath = errors.New("no such path")
	errMethod = errors.New("the path does not take this method")
)

// routes maps every path to the one method that it takes.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(method, path string, h func(*exchange) error) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			x := newExchange(w, r, s.cfg.Quiet)
			defer x.end()
			var err error
			if r.Method != method {
				w.Header().Set("Allow", method)
				err = errMethod
			} else {
				err = h(x)
			}
			if err != nil {
				s.fail(x, err)
			}
		})
	}
	withJob := func(method, path string, h func(*exchange, *core.Job) error) {
		handle(method, path, func(x *exchange) error {
			j, err := s.cfg.Runner.Job(x.request.PathValue("id"), x.request.Header.Get(wire.TokenHeader))
			if err != nil {
				return err
			}
			return h(x, j)
		})
	}
	handle(http.MethodGet, wire.EnclavePath, s.enclave)
	handle(http.MethodGet, wire.AttestPath+"{nonce}", s.attest)
	handle(http.MethodPost, wire.JobsPath, s.submit)
	withJob(http.MethodPut, wire.ModulePath+"{digest}", s.putModule)
	withJob(http.MethodPut, wire.FrontPath+"{asset}", s.putFront)
	withJob(http.MethodGet, wire.AdmitPath, s.admission)
	withJob(http.MethodPut, wire.CredentialsPath, s.putCredentials)
	withJob(http.MethodPut, wire.AssetPath+"{asset}", s.putAsset)
	withJob(http.MethodGet, wire.PhasesPath, s.phases)
	withJob(http.MethodGet, wire.StatusPath, s.status)
	withJob(http.MethodGet, wire.ReceiptPath, s.receipt)
	withJob(http.MethodGet, wire.ReleasePath+"{channel}", s.release)
	withJob(http.MethodGet, wire.RehearsalPath+"{channel}", s.rehearsed)
	withJob(http.MethodDelete, wire.JobPath, s.delete)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		x := newExchange(w, r, s.cfg.Quiet)
		defer x.end()
		s.fail(x, errNoPath)
	})
	return mux
}

func (s *Server) enclave(x *exchange) error {
	e := s.cfg.Enclave
	e.Memory = s.cfg.Runner.Balance()
	return x.answer(http.StatusOK, e)
}

func (s *Server) submit(x *exchange) error {
	raw, done, err := s.body(x, wire.MaxControl)
	if err != nil {
		return err
	}
	defer done()
	sub, err := wire.DecodeSubmit(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrInvalid, err)
	}
	j, err := s.cfg.Runner.Submit(core.Submission{ID: sub.ID, Job: []byte(sub.Job), Assets: sub.Assets})
	if err != nil {
		return err
	}
	s.cfg.Log.Info("job submitted", "job", j.ID())
	return x.answer(http.StatusCreated, wire.Submitted{Token: j.Token(), Modules: j.Modules(), Fronts: j.Fronts(), Queued: j.Queued()})
}

// attest answers a client's nonce. Nothing else of the client's goes into the document.
func (s *Server) attest(x *exchange) error {
	text := x.request.PathValue("nonce")
	nonce, err := hex.DecodeString(text)
	if err != nil || text != strings.ToLower(text) || len(nonce) < attest.MinNonce || len(nonce) > attest.MaxNonce {
		return fmt.Errorf("%w: nonce: not %d to %d bytes in lower-case hexadecimal", core.ErrInvalid, attest.MinNonce, attest.MaxNonce)
	}
	document, err := attest.ForClient(x.request.Context(), s.cfg.NSM, nonce)
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", wire.DocumentType)
	_, err = x.writer().Write(document)
	return err
}

func (s *Server) putModule(x *exchange, j *core.Job) error {
	digest := x.request.PathValue("digest")
	if !slices.Contains(j.Modules(), digest) { // before 16 MiB are read for nothing
		return fmt.Errorf("%w: the job has no module %.80q", core.ErrInvalid, digest)
	}
	module, done, err := s.body(x, wire.MaxModule)
	if err != nil {
		return err
	}
	defer done()
	if err := j.PutModule(x.request.Context(), digest, module); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) putFront(x *exchange, j *core.Job) error {
	asset := x.request.PathValue("asset")
	if !slices.Contains(j.Fronts(), asset) { // before 17 MiB are read for nothing
		return fmt.Errorf("%w: the job has no sealed asset %.80q", core.ErrInvalid, asset)
	}
	front, done, err := s.body(x, wire.MaxFront)
	if err != nil {
		return err
	}
	defer done()
	if err := j.PutFront(x.request.Context(), asset, front); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) putCredentials(x *exchange, j *core.Job) error {
	raw, done, err := s.body(x, wire.MaxCredentials)
	if err != nil {
		return err
	}
	defer done()
	defer clear(raw)
	if err := j.PutCredentials(x.request.Context(), raw); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) admission(x *exchange, j *core.Job) error {
	consented, over, err := j.Admission(x.request.Context())
	if err != nil {
		return err
	}
	if over {
		return core.ErrOver
	}
	return x.answer(http.StatusOK, wire.Admission{
		Consented: consented, Need: j.Need(), Memory: s.cfg.Runner.Balance(),
	})
}

func (s *Server) putAsset(x *exchange, j *core.Job) error {
	if err := j.PutAsset(x.request.Context(), x.request.PathValue("asset"), x.reader()); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// phases streams the phases of a job after those that the caller has seen, until it is done.
func (s *Server) phases(x *exchange, j *core.Job) error {
	seen := 0
	if after := x.request.URL.Query().Get(wire.AfterQuery); after != "" {
		n, err := strconv.ParseUint(after, 10, 16)
		if err != nil {
			return fmt.Errorf("%w: %s: %.20q is no number of a phase", core.ErrInvalid, wire.AfterQuery, after)
		}
		have, _, _, err := j.Latest(x.request.Context())
		if err != nil {
			return err
		}
		if seen = int(n); seen > have {
			return fmt.Errorf("%w: %s: there are %d phases yet", core.ErrInvalid, wire.AfterQuery, have)
		}
	}
	x.Header().Set("Content-Type", wire.PhasesType)
	for {
		phases, err := j.Phases(x.request.Context(), seen)
		if err != nil || len(phases) == 0 {
			return err
		}
		for _, phase := range phases {
			seen++
			p, err := progress(x, j, seen, phase)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(x.writer()).Encode(p); err != nil {
				return err
			}
		}
		if err := x.flush(); err != nil {
			return err
		}
	}
}

// progress is a phase, with the result if it is the last.
func progress(x *exchange, j *core.Job, number int, phase core.Phase) (wire.Progress, error) {
	p := wire.Progress{Number: number, Phase: phase}
	if phase == core.Done {
		result, err := j.Result(x.request.Context())
		if err != nil {
			return wire.Progress{}, err
		}
		p.Result = &result
	}
	return p, nil
}

// status says where a job is, and waits for nothing.
func (s *Server) status(x *exchange, j *core.Job) error {
	number, phase, ago, err := j.Latest(x.request.Context())
	if err != nil {
		return err
	}
	p, err := progress(x, j, number, phase)
	if err != nil {
		return err
	}
	p.Seconds = ago.Seconds()
	return x.answer(http.StatusOK, p)
}

func (s *Server) receipt(x *exchange, j *core.Job) error {
	receipt, err := j.Receipt()
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", wire.JSONType)
	_, err = x.writer().Write(receipt)
	return err
}

// release sends what may leave by a channel. The trailer tells a whole one from one that
// broke off; the caller holds the bytes against the receipt's digest in any case.
func (s *Server) release(x *exchange, j *core.Job) error {
	out := &releaseWriter{quiet: x.writer(), x: x}
	if err := j.Release(x.request.Context(), abi.Channel(x.request.PathValue("channel")), out); err != nil {
		return err
	}
	out.begin() // of nothing, if nothing was written
	x.Header().Set(wire.EndTrailer, wire.EndWhole)
	return nil
}

func (s *Server) rehearsed(x *exchange, j *core.Job) error {
	log, err := j.Rehearsed(abi.Channel(x.request.PathValue("channel")))
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", wire.BulkType)
	_, err = x.writer().Write(log)
	return err
}

func (s *Server) delete(x *exchange, j *core.Job) error {
	if err := j.Delete(); err != nil {
		return err
	}
	s.cfg.Log.Info("job deleted", "job", j.ID())
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// fail answers an error, or breaks the connection off if the answer has begun: nothing else
// tells a caller that something is missing.
func (s *Server) fail(x *exchange, err error) {
	if x.begun {
		panic(http.ErrAbortHandler)
	}
	// What is not known here is the enclave's own concern; its words may name anything.
	status, e := http.StatusInternalServerError, wire.Error{Code: wire.Internal, Message: "the enclave failed"}
	for _, known := range []struct {
		is     error
		status int
		code   wire.Code
	}{
		{errNoPath, http.StatusNotFound, wire.NotFound},
		{errMethod, http.StatusMethodNotAllowed, wire.Method},
		{core.ErrNotFound, http.StatusNotFound, wire.NotFound},
		{core.ErrOver, http.StatusConflict, wire.Over},
		{core.ErrConflict, http.StatusConflict, wire.Conflict},
		{core.ErrOrder, http.StatusConflict, wire.Order},
		{queue.ErrNoRoom, http.StatusInsufficientStorage, wire.NoRoom},
		{queue.ErrTooLarge, http.StatusInsufficientStorage, wire.TooLarge},
		{core.ErrClosed, http.StatusServiceUnavailable, wire.Stopping},
		{border.ErrNotCleared, http.StatusNotFound, wire.Nothing},
		{core.ErrInvalid, http.StatusUnprocessableEntity, wire.Invalid},
	} {
		if errors.Is(err, known.is) {
			status, e = known.status, wire.Error{Code: known.code, Message: err.Error()}
			break
		}
	}
	if key, ok := errors.AsType[*core.KeyError](err); ok {
		status, e = http.StatusForbidden, wire.Error{Code: wire.NoKey, Message: key.Error()}
	}
	s.cfg.Log.Info("call refused", "method", x.request.Method, "code", e.Code)
	x.Header().Set("Content-Type", wire.ErrorMedia)
	x.WriteHeader(status)
	_ = json.NewEncoder(x.writer()).Encode(e) // a caller that is gone needs no answer
}

// body reads a bounded body whole. The caller says when it is done with it.
func (s *Server) body(x *exchange, limit int64) (_ []byte, done func(), err error) {
	select {
	case s.whole <- struct{}{}:
	case <-x.request.Context().Done():
		return nil, nil, context.Cause(x.request.Context())
	}
	done = func() { <-s.whole }
	raw, err := io.ReadAll(io.LimitReader(x.reader(), limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%w: the body is over %d bytes", core.ErrInvalid, limit)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return raw, done, nil
}
