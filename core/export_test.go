package core

// NewPatience is a job's clock, for tests.
var NewPatience = newPatience

// Hold, Resume and Stop are its own.
func (p *patience) Hold()   { p.hold() }
func (p *patience) Resume() { p.resume() }
func (p *patience) Stop()   { p.stop() }
