"""HTTP with deadlines: uvicorn by itself waits for slow heads, bodies and readers for ever.

A request whose body is refused by its head (too long, of unknown length, encoded) is not read: what still comes is
dropped for a moment, so that the sender sees the answer, and the connection is closed.
"""

import asyncio
import http
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fullyconv.serve.limits import Limits

__all__ = ["HEADERS", "Connection", "refusal"]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""

SLICE = 4096
"""Bytes that are parsed at a time: what is refused by its head costs no more."""

LINGER_SECONDS = 1.0
"""For which the rest of a refused body is dropped, before the connection is closed."""

LINGER_BYTES = 2**20
"""That are dropped at most; then nothing is read."""


def refusal(headers: list[tuple[bytes, bytes]], limits: Limits) -> tuple[int, str] | None:
    """Why the body of a request is not read: a status and what to say; None if it is read.

    Args:
        headers: Of the request, names in lower case.
        limits: What is taken.
    """
    found = dict(headers)
    if b"transfer-encoding" in found:
        return 411, "expected a body with Content-Length, got one in chunks"
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        return 415, "expected a body as it is, got an encoded one"
    length = found.get(b"content-length", b"0")
    if int(length) > limits.body_bytes:
        return 413, f"expected a body of at most {limits.body_bytes} bytes, got {int(length)}"
    return None


class Connection(H11Protocol):
    """A connection; its limits come before what uvicorn gives."""

    def __init__(self, limits: Limits, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.limits = limits
        self.access_log = False
        self._refused = False
        self._dropped = 0
        self._deadline: tuple[str, asyncio.TimerHandle] | None = None
        self._slow_reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head within its time; close what is one connection too many."""
        super().connection_made(transport)
        # asyncio does so for sockets that say TCP, which those of `socket.create_server` do not. Head and body of
        # an answer are two packets; without it the second one waits 40 ms for a receipt of the first.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._expect("head", self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._expect("", None)
        if self._slow_reader is not None:
            self._slow_reader.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, but not the body of a request that is refused by its head."""
        for start in range(0, len(data), SLICE):
            if self._refused:
                self._dropped += len(data) - start
                if self._dropped > LINGER_BYTES:
                    self.flow.pause_reading()
            if self._refused or self.transport.is_closing():
                return
            super().data_received(data[start : start + SLICE])
        self._look()

    def handle_events(self) -> None:
        """Answer what came, also what came before it was its turn; a refused body is the last of a connection."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and refusal(self.headers, self.limits) is not None:
            self._refused = True
            self.cycle.more_body = False
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_response_complete(self) -> None:
        """Expect the next head."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._look()

    def _look(self) -> None:
        """Set the deadline for what is to come next."""
        state = self.conn.their_state
        if self._refused or self.transport.is_closing():
            self._expect("", None)
        elif state is h11.SEND_BODY:
            self._expect("body", self.limits.body_seconds)
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._expect("head", self.limits.header_seconds)
        else:
            self._expect("", None)

    def _expect(self, part: str, seconds: float | None) -> None:
        if self._deadline is not None:
            if self._deadline[0] == part:
                return
            self._deadline[1].cancel()
        self._deadline = None if seconds is None else (part, self.loop.call_later(seconds, self._too_slow))

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._end(408, "the request did not come in time")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._end(400, "expected a request of HTTP/1.1, got another")

    def _end(self, status: int, message: str) -> None:
        """Say why, if no answer has begun, and close; the application answers no more."""
        begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not begun:
            body = json.dumps({"error": message})
            fields = {
                **HEADERS,
                "content-type": "application/json",
                "content-length": len(body),
                "connection": "close",
            }
            lines = [
                f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
                *(f"{key}: {fields[key]}" for key in fields),
            ]
            self.transport.write("\r\n".join([*lines, "", body]).encode())
        self.transport.close()

    def pause_writing(self) -> None:
        """Give up who does not take the answer in time."""
        super().pause_writing()
        self._slow_reader = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The answer was taken."""
        super().resume_writing()
        if self._slow_reader is not None:
            self._slow_reader.cancel()
            self._slow_reader = None
