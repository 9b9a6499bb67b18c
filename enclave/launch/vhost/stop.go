package vhost

import (
	"encoding/binary"
	"time"
)

// stop ends a queue until it is set up again, and says where it ended.
func (d *Device) stop(index uint32) ([]byte, error) {
	q, err := d.queue(index)
	if err != nil {
		return nil, err
	}
	d.pause(int(index))
	q.mu.Lock()
	defer q.mu.Unlock()
	out := binary.LittleEndian.AppendUint32(nil, index)
	return binary.LittleEndian.AppendUint32(out, uint32(q.next)), nil
}

// pause silences a queue, and takes its kick away.
func (d *Device) pause(index int) {
	q := d.queues[index]
	d.silence(index)
	if q.kick != nil {
		_ = q.kick.Close() // another process's
		q.kick = nil
	}
}

// silence lets nothing of a queue be used, and returns when nobody is called about it any more.
func (d *Device) silence(index int) {
	q := d.queues[index]
	if q.watched == nil {
		return
	}
	q.mu.Lock()
	q.running = false
	q.mu.Unlock()
	_ = q.kick.SetReadDeadline(time.Unix(1, 0)) // what cannot be waited for ends by itself
	<-q.watched
	q.watched = nil
	_ = q.kick.SetReadDeadline(time.Time{})
	if d.cfg.Stopped != nil {
		d.cfg.Stopped(index)
	}
}

// drop forgets what a queue that is paused knew of the guest.
func (q *Queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.call != nil {
		_ = q.call.Close() // another process's
		q.call = nil
	}
	q.mem, q.desc, q.avail, q.used, q.chain = nil, nil, nil, nil, Chain{}
}
