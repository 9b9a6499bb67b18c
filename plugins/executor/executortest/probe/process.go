//go:build !wasip1

package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// process is what takes a process or two.
func process(word, arg string) error {
	switch word {
	case "signal":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		if err := syscall.Kill(os.Getpid(), syscall.Signal(n)); err != nil {
			return err
		}
		time.Sleep(time.Minute) // it comes at once
		return nil
	case "background":
		cmd := exec.Command("/proc/self/exe", "wait", arg)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd.Start()
	}
	return errors.New("no such word: " + word)
}
