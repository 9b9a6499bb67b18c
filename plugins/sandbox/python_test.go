package sandbox_test

import (
	"testing"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// computing is what an application does without thinking of walls.
const computing = `
import multiprocessing, os, subprocess, sys, tempfile, threading, time, socket, mmap, ctypes, concurrent.futures, asyncio

def square(x): return x * x

if __name__ == "__main__":
    threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(16)]
    [t.start() for t in threads]; [t.join() for t in threads]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(square, range(20)) == [x * x for x in range(20)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(square, range(5))) == 30
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=queue.put, args=("hello",)); child.start()
    assert queue.get(timeout=10) == "hello"; child.join()
    shared = multiprocessing.Value("i", 7)
    with shared.get_lock(): shared.value += 1
    assert subprocess.run(["/bin/sh", "-c", "echo $((6*7)) | cat"], capture_output=True, text=True, check=True).stdout == "42\n"
    assert subprocess.run([sys.executable, "-c", "print('inner')"], capture_output=True, text=True, check=True).stdout == "inner\n"
    with tempfile.TemporaryFile() as f:
        f.write(b"x" * 4096); f.flush()
        assert mmap.mmap(f.fileno(), 4096)[:1] == b"x"
    a, b = socket.socketpair(); a.send(b"ping"); assert b.recv(4) == b"ping"
    async def main():
        p = await asyncio.create_subprocess_exec("/bin/true"); return await p.wait()
    assert asyncio.run(main()) == 0
    assert os.getrandom(4) and os.cpu_count() and os.sched_getaffinity(0)
    try: os.posix_openpt(os.O_RDWR)
    except (OSError, AttributeError): pass
    print("done", os.getuid())
`

func TestPython_ComputesAsOutside(t *testing.T) {
	everybody(t, func(t *testing.T) {
		s := spec(t, "")
		s.Path, s.Args, s.Env = "/usr/bin/python3", []string{"-c", computing}, []string{"PATH=/usr/bin:/bin"}
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: folder(t, 0o700), Target: "/work", Writable: true})
		s.Dir = "/work"
		if out, status := run(t, s); status != 0 || out != "done 1000\n" {
			t.Errorf("ended with %d, %q", status, out)
		}
	})
}
