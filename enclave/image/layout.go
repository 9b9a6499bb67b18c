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
	// Modules are kernel modules, uncompressed, loaded in the order of their names ("00-virtio_mmio.ko"). An
	// image whose kernel has everything built in has no such folder.
	Modules = "modules"
	// CommandLine is what the kernel of an image is started with, byte for byte. A local image has none.
	CommandLine = "cmdline"
)

// An image that boots is two ramdisks, which the kernel unpacks over one another: the first holds Init and
// Dir, the second Root and Executors. Package build says why.
const (
	// Init is what the kernel starts: a symbolic link to the daemon.
	Init = "/init"
)

// What an enclave and its parent meet at over AF_VSOCK.
const (
	// ParentCID is always 3 for an enclave (Nitro Enclaves user guide, "vsock").
	ParentCID = 3
	// APIPort is where the enclave listens, DoorPort where the proxy of its parent does.
	APIPort  = 5005
	DoorPort = 5006
	// HeartbeatPort of the parent takes one byte, Heartbeat, from an enclave that came up, and sends it
	// back (aws-nitro-enclaves-sdk-bootstrap, init.c).
	HeartbeatPort = 9000
	Heartbeat     = 0xB7
)

// Ready is the line on the console that says that the enclave answers.
const Ready = "cloisterd: ready"
