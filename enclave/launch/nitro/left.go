package nitro

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Left is an enclave that runs on if whoever started it is killed: enough to end it from another process.
type Left struct {
	// Path is that of nitro-cli. Default: the one in PATH.
	Path string `json:"path"`
	// Name is that of [Config]. Required.
	Name string `json:"name"`
	// ID is nitro-cli's name for it, or empty where that was never told.
	ID string `json:"id,omitempty"`
}

// End ends the enclave, and returns nil if nothing of that name or ID runs any more. Its error is a [LeftError].
func (l Left) End(ctx context.Context) error {
	c := cli{orDefault(l.Path, "nitro-cli")}
	all, whole, err := c.describe(ctx)
	var ids []string
	for _, found := range all {
		if found.Name == l.Name || found.ID == l.ID {
			ids = append(ids, found.ID)
		}
	}
	switch {
	case whole || len(ids) > 0:
	case l.ID != "": // it is not known whether it is there
		ids = append(ids, l.ID)
	case err == nil:
		err = &Error{Verb: "describe-enclaves", Message: "an enclave does not answer", Cure: "try again"}
		fallthrough
	default:
		return fmt.Errorf("nitro: %w", &LeftError{l, err})
	}
	var errs []error
	for _, id := range slices.Compact(ids) {
		if err := c.terminate(ctx, id); err != nil {
			errs = append(errs, &LeftError{Left{l.Path, l.Name, id}, err})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("nitro: %w", err)
	}
	return nil
}

// LeftError says that an enclave may run which nobody keeps any more, and why it was not ended.
type LeftError struct {
	Left Left
	Err  error
}

func (e *LeftError) Error() string {
	if e.Left.ID == "" {
		return fmt.Sprintf("an enclave named %s may be left: %v", e.Left.Name, e.Err)
	}
	return fmt.Sprintf("the enclave %s, named %s, may be left: %v", e.Left.ID, e.Left.Name, e.Err)
}

// Unwrap is why it was not ended.
func (e *LeftError) Unwrap() error { return e.Err }

// Cure is for the person at the terminal.
func (e *LeftError) Cure() string {
	id := e.Left.ID
	if id == "" {
		id = "ID"
	}
	cure := "nitro-cli describe-enclaves says what runs, and nitro-cli terminate-enclave --enclave-id " + id + " ends it"
	if says, ok := errors.AsType[*Error](e.Err); ok {
		cure = says.Cure + "; " + cure
	}
	return cure
}
