package abi

import "cmp"

// CompareRefs orders the policies of a job as they are asked, and as requests and receipts name
// them: owners first, by owner, module, configuration and asset, so that no operator chooses their
// order; then the operator's own, which it leaves as they are in the job.
func CompareRefs(a, b PolicyRef) int {
	rank := func(r PolicyRef) int {
		if r.Owner == "" {
			return 1
		}
		return 0
	}
	if a.Owner == "" || b.Owner == "" {
		return rank(a) - rank(b)
	}
	return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Module, b.Module), cmp.Compare(a.Config, b.Config), cmp.Compare(a.Asset, b.Asset))
}
