package receipt

import (
	"errors"
	"fmt"

	"github.com/cloister-run/cloister/policies/abi"
)

// checkSealed holds assets, their keys and their owners' policies against one another.
func (r *Run) checkSealed() error {
	assets, err := r.assets()
	if err != nil {
		return err
	}
	keys := map[string]Key{}
	for i, k := range r.Keys {
		if err := k.check(assets); err != nil {
			return fmt.Errorf("keys[%d]: %w", i, err)
		}
		if i > 0 && k.Asset <= r.Keys[i-1].Asset {
			return fmt.Errorf("keys[%d].asset: %.80q is not after the one before", i, k.Asset)
		}
		keys[k.Asset] = k
	}
	for i, a := range r.Assets {
		if a.Sealed && a.Verified && (a.Owner == "" || keys[a.Name].Key != a.Owner) {
			return fmt.Errorf("assets[%d].owner: %.80q is verified, and not the key that opened the asset", i, a.Owner)
		}
	}
	for i, p := range r.Policies {
		if a := assets[p.Asset]; (p.Owner != "" || p.Asset != "") && (!a.Sealed || a.Owner != p.Owner) {
			return fmt.Errorf("policies[%d]: there is no sealed asset %.80q of %.80q", i, p.Asset, p.Owner)
		}
	}
	if len(r.Keys) == 0 {
		return nil
	}
	if err := r.checkAllowed(abi.Admit); err != nil { // I4
		return fmt.Errorf("keys: %w", err)
	}
	return nil
}

// assets are the assets by name.
func (r *Run) assets() (map[string]abi.Asset, error) {
	assets := map[string]abi.Asset{}
	for i, a := range r.Assets {
		if _, twice := assets[a.Name]; twice || a.Name == "" {
			return nil, fmt.Errorf("assets[%d].name: %.80q is empty or comes twice", i, a.Name)
		}
		if !a.Sealed && a.Owner != "" {
			return nil, fmt.Errorf("assets[%d].owner: given for an asset that is not sealed", i)
		}
		assets[a.Name] = a
	}
	return assets, nil
}

func (k Key) check(assets map[string]abi.Asset) error {
	switch {
	case !assets[k.Asset].Sealed:
		return fmt.Errorf("asset: there is no sealed asset %.80q", k.Asset)
	case k.Key == "":
		return errors.New("key: missing")
	case k.RequestID == "":
		return errors.New("request_id: missing")
	}
	return nil
}

// checkUnsealed: where something was released, each sealed asset was opened, verified, and judged by a
// policy of its owner.
func (r *Run) checkUnsealed() error {
	judged := map[string]bool{}
	for _, p := range r.Policies {
		judged[p.Asset] = true
	}
	for i, a := range r.Assets {
		switch {
		case !a.Sealed:
		case !a.Verified:
			return fmt.Errorf("released: assets[%d] is sealed and was not verified", i)
		case !judged[a.Name]:
			return fmt.Errorf("released: assets[%d] is sealed and no policy is its own", i)
		}
	}
	return nil
}
