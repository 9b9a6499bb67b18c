package python

// NewAt looks for its interpreter elsewhere.
func NewAt(places ...string) *Executor { return newAt(places...) }
