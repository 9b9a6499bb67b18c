"""An application that tries every way out of its walls that it knows, and writes down which were shut.

    main.py REPORT

One line for each way: "shut" or "OPEN", and what it was. It then has children crash and run out of memory under names that
say SECRET, which must not turn up on the console.
"""

import ctypes
import os
import socket
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
ways = []


def way(what):
    def register(function):
        ways.append((what, function))
        return function
    return register


def call(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def connects(family, address, kind=socket.SOCK_STREAM):
    def attempt():
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            s.connect(address)
    return attempt


def opens(path, flags=os.O_RDWR):
    def attempt():
        file = os.open(path, flags)
        try:
            if os.fstat(file).st_rdev == os.makedev(1, 3):
                raise OSError("/dev/null lies over it")
        finally:
            os.close(file)
    return attempt


for cid in (0, 1, 2, 3, 16):
    for port in (5005, 5006, 9000):
        ways.append((f"connect to port {port} of CID {cid}", connects(socket.AF_VSOCK, (cid, port))))
ways.append(("listen on AF_VSOCK",
             lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).bind((socket.VMADDR_CID_ANY, 7000))))
ways.append(("CONTROL, what everybody may read", opens("/proc/self/status", os.O_RDONLY)))
ways.append(("a network", connects(socket.AF_INET, ("192.0.2.1", 80))))
ways.append(("the loopback network", connects(socket.AF_INET, ("127.0.0.1", 80))))
ways.append(("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)))
ways.append(("a netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)))
for device in ("nsm", "console", "ttyS0", "mem", "kmsg", "vsock", "hwrng", "port"):
    ways.append((f"/dev/{device}", opens(f"/dev/{device}")))
for path in ("/proc/1/root/cloister/profile.json", "/proc/1/environ", "/cloister/profile.json", "/var/lib/cloister", "/run/cloister",
             "/init", "/proc/kcore", "/proc/kmsg", "/sys/kernel", "/sys/fs/cgroup"):
    ways.append((f"read {path}", opens(path, os.O_RDONLY)))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/bin/written", "/etc/passwd"):
    ways.append((f"write {path}", opens(path, os.O_WRONLY | os.O_CREAT)))


@way("mount")
def _():
    call(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))


@way("a user namespace")
def _():
    call(libc.unshare(0x10000000))


@way("a mount namespace")
def _():
    call(libc.unshare(0x00020000))


@way("become user 0")
def _():
    call(libc.setresuid(0, 0, 0))


@way("the kernel's log")
def _():
    call(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096))


@way("load a module")
def _():
    call(libc.syscall(175, b"", 0, b""))


@way("load another kernel")
def _():
    call(libc.syscall(320, -1, -1, 0, b"", 0))


@way("BPF")
def _():
    call(libc.syscall(321, 0, None, 0))


@way("the clock")
def _():
    call(libc.syscall(227, 0, (ctypes.c_long * 2)(0, 0)))


@way("restart the machine")
def _():
    call(libc.reboot(0x01234567))


@way("more than one process can see")
def _():
    if any(name.isdigit() and int(name) > 1000 for name in os.listdir("/proc")):
        return
    if len([name for name in os.listdir("/proc") if name.isdigit()]) < 20:
        raise OSError("only its own")


@way("what the kernel says of its hardware generator")
def _():
    with open("/sys/devices/virtual/misc/hw_random/rng_current") as f:
        f.read()


def children_that_are_heard():
    """They end in ways of which a kernel likes to tell."""
    name = "SECRET-4711"
    crash = f"import ctypes; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0); ctypes.string_at(0)"
    hungry = f"import ctypes; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0); x = bytearray(1 << 34)"
    for program in (crash, hungry):
        subprocess.run([sys.executable, "-E", "-s", "-B", "-c", program], check=False)


def main():
    with open(sys.argv[1], "w") as report:
        for what, attempt in ways:
            try:
                attempt()
                print(f"OPEN {what}", file=report)
            except Exception as e:  # whatever stopped it
                print(f"shut {what}: {type(e).__name__}", file=report)
    children_that_are_heard()


if __name__ == "__main__":
    main()
