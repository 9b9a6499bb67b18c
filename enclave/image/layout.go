// Package image knows what is where in an enclave's image: the one list of fixed paths that
// the daemon reads and that whoever makes or starts an image provides.
package image

// Version is the version of the enclave, in records and answers.
const Version = "0.1.0"

// The paths inside an enclave.
const (
	// Dir is measured and read-only. It holds what the constants below name, and etc/ for Root.
	Dir = "/cloister"
	// Root is the root file system of executors, measured and read-only.
	Root = "/rootfs"
	// State is in memory; jobs are below it.
	State = "/var/lib/cloister"
	// Run is in memory; the socket of a local enclave is in it.
	Run = "/run/cloister"
	// Socket is where a local enclave listens.
	Socket = Run + "/api.sock"
	// NSM and Door are sockets of whoever starts a local enclave: the simulated NSM, and the one way out.
	NSM  = "/host/nsm.sock"
	Door = "/host/door.sock"
)

// The files below Dir.
const (
	Daemon = "cloisterd"
	Walls  = "walls"
	// PolicyWorker runs one policy.
	PolicyWorker = "policy"
	Profile      = "profile.json"
	Roots        = "roots.pem" // under which the KMS of AWS proves to be that; a local image has none
	Executors    = "executors"
	Etc          = "etc"
)

// Ready is the line on the console that says that the enclave answers.
const Ready = "cloisterd: ready"
