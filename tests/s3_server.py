"""A real S3 server on loopback (moto), in a process of its own, and a proxy that spoils some of its answers."""

from __future__ import annotations

import http.client
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The server ends with whoever holds its standard input, and after five minutes in any case.
_SERVER = """
import os, sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Timer(300, lambda: os._exit(0)).start()
sys.stdin.read()
os._exit(0)
"""

# What becomes of a request: its number and its method and path, to "ok", "500", "drop" or "slow".
Fault = Callable[[int, str, str], str]


@contextmanager
def moto_server() -> Iterator[str]:
    """Run the server; gives its address."""
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def make_bucket(address: str, name: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request("PUT", f"/{name}", b"", {"Content-Length": "0"})
    assert connection.getresponse().status == 200
    connection.close()


def environment(address: str) -> dict[str, str]:
    """Give what a user sets for such a server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        server = self.server
        assert isinstance(server, _Proxy)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = server.fault(next(server.numbers), self.command, self.path)
        server.log.append(what)
        if what == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif what == "500":
            self._answer(500, [], b"")
        else:
            if what == "slow":
                time.sleep(0.5)
            self._answer(*server.ask(self.command, self.path, body, dict(self.headers)))

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def log_message(self, *_: object) -> None:
        return


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.fault = fault
        self.numbers = itertools.count()
        self.log: list[str] = []

    def ask(self, *request: object) -> tuple[int, list[tuple[str, str]], bytes]:
        there = http.client.HTTPConnection(self.target, timeout=20)
        there.request(*request)  # type: ignore[arg-type]
        answer = there.getresponse()
        data = answer.read()
        there.close()
        own = {"transfer-encoding", "connection"} | ({"content-length"} if request[0] != "HEAD" else set())
        return answer.status, [(k, v) for k, v in answer.getheaders() if k.lower() not in own], data

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the game."""


@contextmanager
def spoiling_proxy(address: str, fault: Fault) -> Iterator[tuple[str, list[str]]]:
    """Pass requests on, but for those that `fault` spoils; gives the proxy's address and what was done, in order."""
    server = _Proxy(address.removeprefix("http://"), fault)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
