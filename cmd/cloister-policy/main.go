// Command cloister-policy is a policy worker: it loads one policy and asks it, behind the walls of a
// sandbox. An enclave starts it; a person never does.
package main

import (
	"os"

	"github.com/cloister-run/cloister/policies/worker/inside"
)

func main() { os.Exit(inside.Main()) }
