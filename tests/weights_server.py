"""A web server on this machine that gives one file, and the faults that real ones have."""

import contextlib
import hashlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """How one answer differs from that of a server without faults.

    Attributes:
        status: Answer with this code; 200 gives the whole file, whatever part was asked for.
        headers: Headers that differ; None leaves one out.
        keep: Bytes of the body that are sent.
        extra: What is sent after the body.
        ending: What comes then: the connection is closed, reset, or left open in silence.
        held: Hold the answer back until the test sets `released`.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    keep: int | None = None
    extra: bytes = b""
    ending: str = "close"
    held: bool = False


class WeightsServer(ThreadingHTTPServer):
    """Gives `content` under every path but those in `files`; answers by `faults` first, one after the other."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.content, self.etag, self.faults, self.requests = content, '"1"', [], []
        self.files = {}
        self.sent = 0  # bytes of bodies
        self.released = threading.Event()

    @property
    def name(self):
        """A file name that promises the digest of the content."""
        return f"net-{hashlib.sha256(self.content).hexdigest()[:8]}.pth"

    @property
    def ranges(self):
        """Which bytes each request asked for."""
        return [headers.get("Range") for _, headers in self.requests]

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        content = server.files.get(self.path, server.content)
        server.requests.append((self.path, dict(self.headers)))
        fault = server.faults.pop(0) if server.faults else Fault()
        if fault.held:
            server.released.wait(60)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, server.etag)
        start = int(wanted[1]) if wanted and same and fault.status is None else 0
        headers = {"ETag": server.etag, "Content-Length": len(content) - start}
        status = 200
        if start >= len(content):
            status, headers = 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0}
        elif start:
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(fault.status or status)
        for name, value in (headers | fault.headers).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.give(content[start:][: fault.keep] + fault.extra, fault.ending)

    def give(self, body, ending):
        self.server.sent += len(body)  # before the client can know of it
        self.wfile.write(body)
        if ending == "silence":
            self.server.released.wait(60)
        if ending == "reset":
            # Closing with this option drops the connection without a farewell.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *arguments):
        """The tests read `requests`."""


@contextlib.contextmanager
def serving(content):
    """Run a server as long as the block."""
    server = WeightsServer(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
