"""What every request has to pass and every answer carries: hosts, origins, the token, strict headers."""

import base64
import binascii
import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fullyconv.serve.limits import Limits
from fullyconv.serve.measures import Measures
from fullyconv.serve.protocol import HEADERS, refusal

__all__ = ["FAILED", "Guard"]

FAILED = "the service failed; its log says how"
"""What is said of errors that nobody foresaw."""

OPEN_ROUTES = ("/health", "/v2/health/live", "/v2/health/ready")
"""That probes ask for without a token; they tell nothing."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")


class Guard:
    """Wraps the application.

    Args:
        app: What is guarded.
        hosts: Names, beside IP addresses and localhost, under which the service may be called. Pages of foreign
            sites can make a browser call any address, but then under their own name (DNS rebinding).
        token: Which everybody has to know, "" if nobody has to: as bearer, or as password of any user.
        limits: Of bodies.
        measures: Where answers are counted.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], token: str, limits: Limits, measures: Measures
    ) -> None:
        self.app = app
        self.hosts = {"localhost", *(host.lower() for host in hosts)}
        self.token = token.encode("utf-8", "surrogateescape")  # as it comes out of the environment
        self.limits = limits
        self.measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, started = time.perf_counter(), False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                # The route's pattern, not what was asked for: else anybody could make up labels.
                route = getattr(scope.get("route"), "path", "none")
                self.measures.requests.labels(route, str(message["status"])).inc()
                self.measures.seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await _answer(send_guarded, *refused)
            return
        try:
            await self.app(scope, receive, send_guarded)
        except Exception:  # here, since Starlette would answer outside of what is guarded
            if started:
                raise
            logging.getLogger(__name__).exception("a request failed")
            await _answer(send_guarded, 500, FAILED, {})

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """A status, what to say, and headers; None if the request may pass."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 403, "expected a Host under which this service is known", {}
        own = (f"http://{host}".lower(), f"https://{host}".lower())
        if any(origin.lower() not in own for origin in headers.getlist("origin")):
            return 403, "requests of pages of other sites are refused", {}
        if self.token and scope["path"] not in OPEN_ROUTES and not self._knows(headers.get("authorization", "")):
            return 401, "expected the token of this service", {"www-authenticate": 'Basic realm="fullyconv"'}
        unread = refusal(scope["headers"], self.limits)
        return None if unread is None else (*unread, {})

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().strip("[]")
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        given = value.strip().encode("latin-1")  # the bytes that came
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        return kind.lower() in ("basic", "bearer") and hmac.compare_digest(given, self.token)


async def _answer(send: Send, status: int, message: str, headers: dict[str, str]) -> None:
    body = json.dumps({"error": message}).encode()
    fields: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **headers,
    }
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
