package executor

// Where a job's folders are inside every sandbox. Plugin authors and job files rely on these.
const (
	// AssetsDir holds application/ and inputs/NAME, read-only. It is empty until ingress allowed them.
	AssetsDir = "/job"
	// WorkDir is writable, limited by the job's disk limit, and gone when the job ends.
	// It holds outputs/, logs/ and tmp/; the latter is HOME and TMPDIR.
	WorkDir = "/work"
	// SocketDir is where the plugin puts its one Unix socket.
	SocketDir = "/run/plugin"
)

// Place is what the enclave gives one executor: folders of the enclave, and limits.
type Place struct {
	// Assets, Work and Socket are folders of the enclave that appear as AssetsDir, WorkDir
	// and SocketDir. Assets is mounted read-only; the enclave fills it while the executor runs.
	Assets, Work, Socket string
	// Owner is the user and group of the enclave that own Work and Socket and that the
	// sandboxed user maps to; -1 for the enclave's own.
	Owner int
	// Memory in bytes, CPUs in cores, Processes with threads: the job's limits.
	Memory    int64
	CPUs      int
	Processes int
	// FileSize bounds one file in bytes.
	FileSize int64
}
