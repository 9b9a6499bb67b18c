package core_test

import (
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
)

// TestI1_ASealedOutputLeavesForItsRecipientAlone: what the job seals leaves as an age file that the receipt
// names, and the ledger counts the room that it takes.
func TestI1_ASealedOutputLeavesForItsRecipientAlone(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to := id.Recipient().String()
	e := allowing(t, writes(0))
	j := coretest.Simple("job", "allow")
	j.Spec.SealTo = map[string][]string{"result": {to}}
	job, r := e.Run(t, j)
	if r.Outcome != receipt.Succeeded {
		t.Fatalf("%+v", r)
	}
	if need := job.Need(); need.Sealed < need.Disk || need.Total() != need.Assets+need.Disk+need.Sealed+need.Memory+need.Notes {
		t.Errorf("was promised %+v", need)
	}
	if need, held := job.Need(), e.Balance().Reserved; held != need.Disk+need.Sealed {
		t.Errorf("%d bytes are held for what may leave, of %+v", held, need)
	}
	run := record(t, job)
	got := released(t, job)
	for _, a := range run.Released {
		sealed := a.Channel == result
		if a.Digest != coretest.Digest(got[a.Channel]) || sealed != (len(a.Recipients) == 1 && a.Recipients[0] == to) {
			t.Errorf("the record says %+v", a)
		}
	}
	if strings.Contains(got[result], secret) {
		t.Error("the output left in plain")
	}
	opened, err := age.Decrypt(strings.NewReader(got[result]), id)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(opened); err != nil || string(content) != secret {
		t.Errorf("sealed %q, %v", content, err)
	}
}
