package vsock

import (
	"net"

	"github.com/mdlayher/vsock"
)

// Admitting is the listener behind [ListenPort] and [ListenUnix].
func Admitting(l net.Listener, admit func(net.Conn) bool) net.Listener { return &admitting{l, admit} }

// Others is whom [ListenPort] admits, of connections whose ends are told.
func Others(ends func(net.Conn) (own, peer uint32, err error), admit func(cid uint32) bool) func(net.Conn) bool {
	return others(ends, admit)
}

// Admissible is the rule of [ListenPort] that admit cannot change, Explain its words.
func Admissible(own, peer uint32) bool { return admissible(own, peer) }

func Explain(err error) error { return explain(err) }

// Closable is a listener of the library as [ListenPort] has it.
func Closable(l *vsock.Listener) net.Listener { return ports{l} }
