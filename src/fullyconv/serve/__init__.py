"""The web service and its page (extra `serve`): the same predictors, the same bits, over HTTP.

    fullyconv serve runs/demo/best.safetensors

`app` puts the routes together, `work` is the queue before the models, `guard` and `protocol` are what a request
has to pass. Everything runs in one process.
"""

import asyncio
import gc
import ipaddress
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from fastapi import FastAPI

from fullyconv.errors import UsageError
from fullyconv.own_folder import own_folder
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.serve.app import create_app
from fullyconv.serve.limits import Limits
from fullyconv.serve.protocol import Connection

__all__ = ["Limits", "create_app", "http_server", "serve"]

BACKLOG = 128
"""Connections that the system holds for us."""

DRAIN_SECONDS = 20
"""For which requests in flight are answered after SIGTERM; new ones get 503, as does who asks for readiness."""

CLOSE_SECONDS = 5
"""For which answers may be taken then."""


def serve(
    models: Mapping[str, Predictor],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    hosts: Sequence[str] = (),
    limits: Limits | None = None,
    label_studio_images: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Serve models until the process is told to end.

    Args:
        models: Predictors by name.
        host: The address to listen on.
        port: The port.
        token: Which every request has to carry; needed where others than this machine can call.
        hosts: Names under which the service may be called, beside localhost and IP addresses.
        limits: What is taken.
        label_studio_images: A folder in which images that Label Studio names are looked for.
        progress: Where to say the address.

    Raises:
        UsageError: An address that others can reach, without a token; or one that cannot be listened on.
    """
    limits = limits or Limits()
    if not token and not _is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, so a token is needed",
            hint="put one into FULLYCONV_TOKEN or a file named by --token-file",
        )
    with own_folder("fullyconv-serve-") as folder:
        app = create_app(
            models,
            folder,
            limits=limits,
            hosts=hosts,
            token=token,
            label_studio_images=label_studio_images,
        )
        with _listening(host, port) as listener:
            shown = f"[{host}]" if ":" in host else host
            (progress or Silent()).say(
                f"serving {', '.join(models)} at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it)"
            )
            # What is there now stays: to look through it for garbage keeps everybody waiting for 0.4 s.
            gc.collect()
            gc.freeze()
            http_server(app, limits).run([listener])


def http_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Make what speaks HTTP; it is run with a socket that listens."""
    return _Server(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(Connection, limits)),
            ws="none",
            loop="asyncio",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
    )


class _Server(uvicorn.Server):
    """uvicorn hangs up on whoever comes while it ends; here they are sent away."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, when what was asked for is answered."""
        work = cast(FastAPI, self.config.app).state.work
        work.ready = False
        until = time.monotonic() + DRAIN_SECONDS
        while not (work.is_idle or self.force_exit) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"{host}, port {port}, cannot be listened on: {error.strerror}", hint="choose another --port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
