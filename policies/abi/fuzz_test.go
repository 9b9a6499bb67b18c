package abi_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cloister-run/cloister/policies/abi"
)

// seeds adds every file of a glob; a glob that matches nothing fails.
func seeds(f *testing.F, glob string) {
	f.Helper()
	paths, err := filepath.Glob(glob)
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds in %s: %v", glob, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// FuzzDecodeDecision: an error comes with the zero Decision, and a decision that is accepted
// says the same after another round through JSON.
func FuzzDecodeDecision(f *testing.F) {
	seeds(f, "testdata/decisions/*.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := abi.DecodeDecision(data)
		if err != nil {
			if !reflect.DeepEqual(d, abi.Decision{}) {
				t.Fatalf("an error came with %+v", d)
			}
			return
		}
		if len(data) > abi.MaxDecisionBytes {
			t.Fatal("longer than the limit")
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		again, err := abi.DecodeDecision(text)
		if len(text) <= abi.MaxDecisionBytes && (err != nil || again.Allow != d.Allow || again.Code != d.Code ||
			len(again.Channels) != len(d.Channels) || (again.Recipients == nil) != (d.Recipients == nil)) {
			t.Fatalf("%s became %+v, %v", text, again, err)
		}
		for _, point := range []abi.Point{abi.Admit, abi.Ingress, abi.Egress} {
			req := abi.Request{Point: point, Channels: []abi.Channel{abi.Output("a")}}
			if d.Check(req, abi.Manifest{}) == nil && (d.Code != "" || len(d.Channels) > 1) {
				t.Fatalf("%+v passed at %s", d, point)
			}
		}
	})
}

// FuzzDecodeManifest: an error comes with the zero Manifest, and a manifest that is accepted
// keeps within its bounds and is accepted again.
func FuzzDecodeManifest(f *testing.F) {
	seeds(f, "testdata/manifests/*.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := abi.DecodeManifest(data)
		if err != nil {
			if !reflect.DeepEqual(m, abi.Manifest{}) {
				t.Fatalf("an error came with %+v", m)
			}
			return
		}
		if m.ABI != abi.Version || len(m.Codes) > abi.MaxCodes || m.Name == "" {
			t.Fatalf("accepted %+v", m)
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := abi.DecodeManifest(text); err != nil && len(text) <= abi.MaxManifestBytes {
			t.Fatalf("%s is not accepted again: %v", text, err)
		}
	})
}
