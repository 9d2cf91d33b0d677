"""Messages between a decoder and its parent: whole, in time, and nothing else."""

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fakeface_jax.server.sandbox.protocol import BrokenChannel, Channel, Silence


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), theirs


def test_messages_arrive_whole(ends):
    channel, theirs = ends
    other = Channel(theirs)
    payload = np.random.default_rng(0).bytes(3_000_000)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(channel.send, {"a": [1.5, None, "ü"]}, payload)
        assert other.receive(max_bytes=len(payload), timeout=10.0) == ({"a": [1.5, None, "ü"]}, payload)
        sent.result()


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("!IQ", 2**31, 0),
        struct.pack("!IQ", 2, 2**60) + b"{}",
        struct.pack("!IQ", 2, 0) + b"[]",
        struct.pack("!IQ", 3, 0) + b"\xff\xff\xff",
        struct.pack("!IQ", 60_000, 0) + b"[" * 60_000,
        struct.pack("!IQ", 4, 0) + b"{}",
    ],
)
def test_nonsense_from_a_decoder_is_no_message(ends, raw):
    channel, theirs = ends
    theirs.sendall(raw)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenChannel):
        channel.receive(max_bytes=1000, timeout=5.0)


def test_a_message_has_to_come_in_time(ends):
    channel, theirs = ends
    theirs.sendall(b"\0\0")
    began = time.monotonic()
    with pytest.raises(Silence):
        channel.receive(max_bytes=1000, timeout=0.2)
    with pytest.raises(Silence):
        channel.send({}, bytes(50_000_000), timeout=0.2)  # nobody reads
    assert time.monotonic() - began < 5
