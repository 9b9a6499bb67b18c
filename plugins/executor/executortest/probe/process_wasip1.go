package main

import "errors"

// process: WebAssembly has none.
func process(word, _ string) error { return errors.New("no such word: " + word) }
