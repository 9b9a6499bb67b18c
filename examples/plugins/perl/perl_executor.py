"""An executor plugin in Python that runs Perl: made from docs/executors.md and executor.proto alone.

build puts an interpreter with grpcio before it. It is started from memory, so it finds nothing beside itself.
"""

import base64
import os
import signal
import subprocess
import sys
import threading
from concurrent import futures
from datetime import datetime, timedelta, timezone

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import executor_pb2 as pb
import executor_pb2_grpc as rpc

PERL = "/usr/bin/perl"
GRACE = 2  # seconds between SIGTERM and SIGKILL
FIXED = {"HOME": "/work/tmp", "TMPDIR": "/work/tmp", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}


def certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, cert


class Executor(rpc.ExecutorServicer):
    def __init__(self):
        self.lock = threading.Lock()
        self.program = None
        self.stopped = False

    def Describe(self, request, context):
        return pb.DescribeResponse(name="perl", version="0.1.0")

    def Prepare(self, request, context):
        try:
            version = subprocess.run([PERL, "-e", "printf '%vd', $^V"], capture_output=True, text=True, check=True, env=FIXED).stdout
        except (OSError, subprocess.CalledProcessError):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "")
        return pb.PrepareResponse(runtime_name="Perl", runtime_version=version)

    def script(self, request, context):
        root = os.path.realpath(request.application)
        path = os.path.realpath(os.path.join(root, request.entrypoint))
        absolute = request.entrypoint.startswith("/")
        if absolute or not path.startswith(root + "/") or not os.path.isfile(path):
            context.abort(grpc.StatusCode.NOT_FOUND, "")
        return os.path.join(request.application, request.entrypoint)

    def Run(self, request, context):
        if request.environment:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "")
        script = self.script(request, context)
        env = {**request.env, **FIXED}
        files = []
        try:
            for name in (request.stdout, request.stderr):
                flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW if name else 0)
                files.append(os.open(name or os.devnull, flags, 0o600))
        except OSError:
            for f in files:
                os.close(f)
            context.abort(grpc.StatusCode.INTERNAL, "")
        with self.lock:
            if self.stopped:
                for f in files:
                    os.close(f)
                context.abort(grpc.StatusCode.CANCELLED, "")
            self.program = subprocess.Popen([PERL, script, *request.args], cwd=request.dir, env=env, stdin=subprocess.DEVNULL,
                                            stdout=files[0], stderr=files[1], process_group=0)
        for f in files:
            os.close(f)
        context.add_callback(self.kill)
        status = self.program.wait()
        self.kill()
        return pb.RunResponse(status=status if status >= 0 else 128 - status)

    def kill(self):
        if self.program:
            try:
                os.killpg(self.program.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def Stop(self, request, context):
        with self.lock:
            self.stopped = True
        if self.program:
            try:
                os.killpg(self.program.pid, signal.SIGTERM)
                self.program.wait(GRACE)
            except ProcessLookupError:
                pass
            except subprocess.TimeoutExpired:
                self.kill()
                self.program.wait()
        return pb.StopResponse()


def main():
    if os.environ.get("CLOISTER_EXECUTOR") != "executor.v1":
        sys.exit("perl-executor: an enclave starts this")
    key, cert = certificate()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    rpc.add_ExecutorServicer_to_server(Executor(), server)
    checks = health.HealthServicer()
    checks.set("plugin", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    credentials = grpc.ssl_server_credentials(
        [(key, cert.public_bytes(serialization.Encoding.PEM))],
        root_certificates=os.environ["PLUGIN_CLIENT_CERT"].encode(), require_client_auth=True)
    socket = os.environ["PLUGIN_UNIX_SOCKET_DIR"] + "/perl"
    server.add_secure_port("unix:" + socket, credentials)
    server.start()
    der = base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).rstrip(b"=").decode()
    print(f"1|1|unix|{socket}|grpc|{der}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
