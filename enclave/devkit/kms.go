package devkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds on a request, and on what is served at once.
const (
	maxBody    = 64 << 10
	maxHeader  = 16 << 10
	maxAtOnce  = 64
	maxAction  = 64 // of its name, in the log
	maxOpen    = 256
	readTime   = 10 * time.Second
	writeTime  = 20 * time.Second
	idleTime   = time.Minute
	endingTime = 5 * time.Second
)

const (
	contentType  = "application/x-amz-json-1.1"
	targetPrefix = "TrentService."
	requestID    = "X-Amzn-Requestid" // as net/http and AWS spell it
)

// KMS plays AWS KMS: the JSON 1.1 API, for the keys and accounts of a home. It is safe for concurrent
// use, and several processes may serve one home.
type KMS struct {
	home *Home
	log  slog.Handler
	now  func() time.Time
	// free has room for as many requests as are served at once.
	free chan struct{}
}

var _ http.Handler = (*KMS)(nil)

// NewKMS serves a home. log gets a line for every request, as CloudTrail would: who asked for what,
// under which encryption context, and the outcome. Where the line cannot be written, nothing is answered
// but an error.
func NewKMS(h *Home, log *slog.Logger) *KMS {
	return &KMS{home: h, log: log.Handler(), now: time.Now, free: make(chan struct{}, maxAtOnce)}
}

// Serve answers on a listener, which it closes, until ctx ends; then it returns nil once the
// requests that are under way are answered.
func (k *KMS) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: k, ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(k.log, slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endingTime)
		defer cancel()
		if server.Shutdown(ending) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(netutil.LimitListener(listener, maxOpen))
	if !stop() {
		<-ended
		return nil
	}
	_ = server.Close()
	return err
}

// call is one request on its way through, and what its audit line will say.
type call struct {
	kms    *KMS
	id     string
	at     time.Time
	body   []byte
	secure bool

	action, region string
	caller         Account
	// key is the ARN of the key that it came to.
	key               string
	encryptionContext map[string]string
	// module and image are the recipient's, of a verified document.
	module, image string
}

// ServeHTTP implements [http.Handler].
func (k *KMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{kms: k, id: newUUID(), at: k.now(), secure: r.TLS != nil}
	answer, err := c.serve(w, r)
	var body []byte
	if err == nil && answer != nil {
		if body, err = json.Marshal(answer); err != nil {
			err = internal(err)
		}
	}
	if unwritten := c.audit(r.Context(), err); unwritten != nil {
		err = internal(unwritten)
	}
	status := http.StatusOK
	if err != nil {
		body, status = errorBody(err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header()[requestID] = []string{c.id}
	w.WriteHeader(status)
	_, _ = w.Write(body) // #nosec G705 -- JSON, and who is gone goes without
}

// serve bounds, authenticates and answers a request.
func (c *call) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	select {
	case c.kms.free <- struct{}{}:
		defer func() { <-c.kms.free }()
	default:
		return nil, refused(codeThrottled, "Rate exceeded")
	}
	action, ok := strings.CutPrefix(r.Header.Get(targetHeader), targetPrefix)
	c.action = action[:min(len(action), maxAction)]
	do := actionOf(action)
	if !ok || do == nil || r.Method != http.MethodPost || r.URL.Path != "/" || r.URL.RawQuery != "" {
		return nil, refused(codeUnknownAction, "")
	}
	if given, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); given != contentType {
		return nil, refused(codeSerialization, "The Content-Type is not %s.", contentType)
	}
	var err error
	if c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, &fault{status: http.StatusRequestEntityTooLarge, code: codeTooLarge, message: "The request is too large."}
		}
		return nil, refused(codeSerialization, "The request broke off.")
	}
	if c.caller, c.region, err = c.kms.authenticate(r, c.body); err != nil {
		return nil, err
	}
	return do(c)
}

// decode reads the parameters of an action.
func (c *call) decode(into any) error {
	if err := json.Unmarshal(c.body, into); err != nil {
		return refused(codeSerialization, "The request is not the JSON of this action.")
	}
	decoder := json.NewDecoder(bytes.NewReader(c.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return unsupported("a parameter of the request: %.100s", err.Error())
	}
	return nil
}

// errorBody is an error in the form of KMS. Of a denial the message has a capital, as IAM's part
// of KMS writes it; of all others it has none.
func errorBody(err error) ([]byte, int) {
	f, ok := errors.AsType[*fault](err)
	if !ok {
		f = internal(err)
	}
	body := map[string]string{"__type": f.code}
	switch {
	case f.code == codeAccessDenied:
		body["Message"] = f.message
	case f.message != "":
		body["message"] = f.message
	}
	out, err := json.Marshal(body)
	if err != nil {
		return nil, http.StatusInternalServerError
	}
	return out, f.status
}

// audit writes the line of a request. It goes to the handler itself, since a logger drops errors.
func (c *call) audit(ctx context.Context, err error) error {
	outcome, detail := "success", ""
	if f, ok := errors.AsType[*fault](err); ok {
		outcome, detail = f.code, f.detail
	}
	line := slog.NewRecord(c.at.UTC(), slog.LevelInfo, "kms", 0)
	line.AddAttrs(slog.String("request", c.id), slog.String("action", c.action), slog.String("outcome", outcome))
	for _, attr := range []slog.Attr{
		slog.String("detail", detail), slog.String("principal", c.caller.ARN), slog.String("key", c.key),
		slog.String("module", c.module), slog.String("image", c.image),
	} {
		if attr.Value.String() != "" {
			line.AddAttrs(attr)
		}
	}
	var bound []any
	for _, name := range slices.Sorted(maps.Keys(c.encryptionContext)) {
		bound = append(bound, slog.String(name, c.encryptionContext[name]))
	}
	line.AddAttrs(slog.Group("encryption_context", bound...)) // left out where it is empty
	return c.kms.log.Handle(context.WithoutCancel(ctx), line)
}
