"""Answers of any size: given piece by piece, their memory held until they are taken."""

from collections.abc import Mapping
from contextlib import ExitStack

from fastapi import Response
from starlette.types import Receive, Scope, Send

from fullyconv.serve.work import Work

__all__ = ["Sent"]

PIECE = 2**18
"""Bytes that are given at a time; the next ones when these are nearly taken."""


class Sent(Response):
    """An answer whose memory counts until it is taken: who reads slowly shall not pile up answers.

    Args:
        work: Whose memory it is.
        body: All of it.
        media_type: Of the body.
        headers: Further ones.

    Raises:
        BusyError: Others hold too much.
    """

    def __init__(self, work: Work, body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self._held = ExitStack()
        self._held.enter_context(work.hold(len(body)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give it."""
        with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), PIECE):
                piece = bytes(self.body[start : start + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
