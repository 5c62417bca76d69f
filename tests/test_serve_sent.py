"""Answers that count until they are taken."""

import asyncio

from fullyconv.serve.limits import Limits
from fullyconv.serve.measures import Measures
from fullyconv.serve.sent import PIECE, Sent
from fullyconv.serve.work import Work


def test_an_answer_is_held_until_its_last_piece_is_taken():
    body, held, said = bytes(range(256)) * (PIECE // 100), [], []

    async def main():
        work = Work({}, Limits(), Measures())

        async def send(message):
            held.append(work._held)
            said.append(message)

        answer = Sent(work, body, "image/png", {"x-y": "z"})
        assert work._held == len(body)
        await answer({"type": "http"}, None, send)
        assert work._held == 0

    asyncio.run(main())
    assert held == [len(body)] * len(said)
    assert dict(said[0]["headers"])[b"content-length"] == str(len(body)).encode()
    assert b"".join(message.get("body", b"") for message in said) == body
    assert all(len(message.get("body", b"")) <= PIECE for message in said)
    assert [message.get("more_body", False) for message in said[1:]] == [True] * (len(said) - 2) + [False]
