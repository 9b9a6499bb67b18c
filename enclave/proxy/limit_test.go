package proxy_test

import (
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/cloister-run/cloister/enclave/proxy"
)

// crowd is a listener at which somebody always is.
type crowd struct{ net.Listener }

func (crowd) Accept() (net.Conn, error) { return nil, nil }

// Whoever is too many waits for a place, which a tunnel leaves as well as who is gone.
func TestAskersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		l, watch := proxy.Limited(crowd{}, 2, closed)
		accepted := 0
		var last error
		go func() {
			for last == nil {
				if _, last = l.Accept(); last == nil {
					accepted++
				}
			}
		}()
		for i, state := range []http.ConnState{http.StateNew, http.StateActive, http.StateClosed, http.StateHijacked} {
			synctest.Wait()
			if want := 2 + max(0, i-2); accepted != want {
				t.Errorf("%d accepted, want %d", accepted, want)
			}
			watch(nil, state)
		}
		synctest.Wait()
		close(closed)
		synctest.Wait()
		if accepted != 4 || !errors.Is(last, net.ErrClosed) {
			t.Errorf("%d accepted, then %v", accepted, last)
		}
	})
}
