"""Files as clients send them: names and headers that are odd, long, or not meant well."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from fakeface_jax.server.http.multipart import Upload, receive
from fakeface_jax.server.http.problems import Problem


def sent(disposition: bytes, chunk: int = 1000) -> Upload:
    """What is received of a form with one file, which comes in pieces."""
    body = b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\nabc\r\n--b--\r\n"
    pieces = [body[place : place + chunk] for place in range(0, len(body), chunk)]
    scope = {"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=b")]}

    async def next_piece() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    return asyncio.run(receive(Request(scope, next_piece), most=2**20, idle=30.0, total=30.0))


def of_name(name: str, **more: int) -> str:
    upload = sent(b'form-data; name="file"; filename="' + name.encode() + b'"', **more)
    assert upload.data == b"abc"
    return upload.name


@pytest.mark.parametrize("length", [300, 3000, 4096, 5000, 200_000])
@pytest.mark.parametrize("chunk", [97, 1000, 2**20])
def test_a_long_name_is_cut_and_keeps_its_ending(length: int, chunk: int) -> None:
    if length > 50_000 and chunk < 1000:
        chunk = 1000
    name = of_name("ä" * (length // 2) + ".mp4", chunk=chunk)
    assert name == ("ä" * min(196, length // 2)) + ".mp4"


def test_what_follows_a_long_name_is_read() -> None:
    upload = sent(b'form-data; filename="' + b"x" * 9000 + b'.webm"; name="file"')
    assert upload.name == "x" * 195 + ".webm"


def test_control_and_direction_characters_of_names_are_replaced() -> None:
    assert of_name("a\x1b[31mb\u202e4pm.exe") == "a\ufffd[31mb\ufffd4pm.exe"
    assert of_name("a%0D%0Ab%00.mp4") == "a\ufffd\ufffdb\ufffd.mp4"
    assert of_name("C:\\films\\a.mp4") == "a.mp4"
    assert of_name("../../") == "upload"


def test_a_header_whose_name_is_too_long_is_malformed() -> None:
    with pytest.raises(Problem, match="malformed") as refused:
        sent(b'form-data; name="file"\r\n' + b"x" * 5000 + b": y")
    assert refused.value.status == 400
