// Command probe is a policy that tells, as caps, what reaches a policy beside its request.
package main

import (
	"crypto/rand"
	"encoding/binary"
	"os"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
)

func main() {
	sdk.Main(func(ctx *sdk.Context) (abi.Decision, error) {
		var random [8]byte
		if _, err := rand.Read(random[:]); err != nil {
			return abi.Decision{}, err
		}
		roots, _ := os.ReadDir("/")
		found := map[abi.Channel]int64{
			"outputs.environment": int64(len(os.Environ())),
			"outputs.arguments":   int64(len(os.Args)),
			"outputs.random":      int64(binary.LittleEndian.Uint64(random[:]) >> 1),
			"outputs.clock":       time.Now().UnixNano(),
			"outputs.elapsed":     int64(time.Since(time.Now())),
			"outputs.roots":       int64(len(roots)),
		}
		decision := sdk.Consent(ctx.Request.Channels...)
		decision.Caps = found
		return decision, nil
	})
}
