// Command probe is the probe of executortest for executors that run a compiled program; what each word
// means is written there. Without processes, as in WebAssembly, it knows neither signal nor background.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		end(errors.New("no word"))
	}
	end(say(os.Args[1], os.Args[2:]))
}

func end(err error) {
	if err != nil {
		_, _ = fmt.Fprintln(io.Writer(os.Stderr), err) // the probe ends anyway
		os.Exit(1)
	}
	os.Exit(0)
}

func say(word string, rest []string) error {
	switch word {
	case "args":
		return list(rest)
	case "env":
		return list(os.Environ())
	case "dir":
		dir, err := os.Getwd()
		return errors.Join(err, write(os.Stdout, dir))
	case "print":
		return errors.Join(write(os.Stdout, rest[0]), write(os.Stderr, rest[1]))
	case "exit":
		status, err := strconv.Atoi(rest[0])
		if err == nil {
			os.Exit(status)
		}
		return err
	case "fill":
		size, err := strconv.Atoi(rest[0])
		if err != nil {
			return err
		}
		return write(os.Stdout, string(bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]))
	case "stdin":
		n, err := io.Copy(io.Discard, os.Stdin)
		return errors.Join(err, write(os.Stdout, strconv.FormatInt(n, 10)))
	case "wait":
		return wait(rest[0])
	}
	return process(word, rest[0])
}

func list(all []string) error {
	var err error
	for _, one := range all {
		err = errors.Join(err, write(os.Stdout, one+"\x00"))
	}
	return err
}

func write(to *os.File, text string) error {
	_, err := to.WriteString(text)
	return err
}

func wait(name string) error {
	beacon, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer beacon.Close()
	if err := write(beacon, "ready\n"); err != nil {
		return err
	}
	for {
		time.Sleep(time.Hour)
	}
}
