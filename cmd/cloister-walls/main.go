// Command cloister-walls is the first process of every sandbox. It builds the walls from the
// inside and then starts the program behind them. Package sandbox runs it; a person never does.
package main

import "github.com/cloister-run/cloister/plugins/sandbox/walls"

func main() {
	walls.Main()
}
