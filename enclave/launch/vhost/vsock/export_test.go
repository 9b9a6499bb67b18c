package vsock

import "time"

// Impatient gives the guest no more time than t to agree that a connection is closed.
func (d *Device) Impatient(t time.Duration) { d.closing = t }
