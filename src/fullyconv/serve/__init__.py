"""The web service and its page (extra `serve`): the same predictors, the same bits, over HTTP.

    fullyconv serve runs/demo/best.safetensors

`app` puts the routes together, `work` is the queue before the models, `guard` and `protocol` are what a request
has to pass. Everything runs in one process.
"""

import ipaddress
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from fullyconv.errors import UsageError
from fullyconv.predict import Predictor
from fullyconv.serve.app import create_app
from fullyconv.serve.limits import Limits
from fullyconv.serve.protocol import protocol

__all__ = ["Limits", "create_app", "http_server", "serve"]

DRAIN_SECONDS = 20
"""For which requests in flight are answered after SIGTERM."""


def serve(
    models: Mapping[str, Predictor],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    hosts: Sequence[str] = (),
    limits: Limits | None = None,
    label_studio_images: Path | None = None,
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

    Raises:
        UsageError: An address that others can reach, without a token.
        OSError: The address cannot be listened on.
    """
    limits = limits or Limits()
    if not token and not _is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, so a token is needed",
            hint="put one into FULLYCONV_TOKEN or a file named by --token-file",
        )
    with tempfile.TemporaryDirectory(prefix="fullyconv-serve-") as folder:
        app = create_app(
            models,
            Path(folder),
            limits=limits,
            hosts=hosts,
            token=token,
            label_studio_images=label_studio_images,
        )
        http_server(app, limits, host, port).run()


def http_server(app: FastAPI, limits: Limits, host: str, port: int) -> uvicorn.Server:
    """Make what listens and speaks HTTP."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol(limits),
            ws="none",
            loop="asyncio",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
