"""Events: from threads to readers, complete, in order, again after a break, bounded."""

from __future__ import annotations

import asyncio
import threading

from fakeface_jax.server.events import KEPT, Channel, EventHub


async def numbers(channel: Channel, after: int = 0) -> list[int]:
    return [event.number async for event in channel.follow(after)]


def test_a_reader_gets_all_that_was_told_before_and_after_it_came() -> None:
    async def story() -> None:
        channel = Channel()
        channel.send("progress", {"done": 1})
        reader = asyncio.ensure_future(numbers(channel))
        await asyncio.sleep(0.01)

        def tell() -> None:
            for done in range(2, 50):
                channel.send("progress", {"done": done})
            channel.send("end", {}, last=True)

        threading.Thread(target=tell).start()
        assert await asyncio.wait_for(reader, 5) == list(range(1, 51))
        # Who comes again goes on where it was.
        assert await numbers(channel, after=48) == [49, 50]

    asyncio.run(story())


def test_nothing_is_told_after_the_end() -> None:
    async def story() -> None:
        channel = Channel()
        channel.send("end", {}, last=True)
        channel.send("progress", {})
        assert await numbers(channel) == [1]

    asyncio.run(story())


def test_old_events_make_room_and_the_numbers_tell() -> None:
    async def story() -> None:
        channel = Channel()
        for done in range(KEPT + 10):
            channel.send("frame", {"index": done})
        channel.close()
        found = await numbers(channel)
        assert (found[0], found[-1], len(found)) == (11, KEPT + 10, KEPT)

    asyncio.run(story())


def test_closing_the_hub_ends_all_readers_now_and_later() -> None:
    async def story() -> None:
        hub = EventHub()
        reader = asyncio.ensure_future(numbers(hub.channel("a")))
        await asyncio.sleep(0.01)
        hub.close()
        assert await asyncio.wait_for(reader, 5) == []
        assert await asyncio.wait_for(numbers(hub.channel("b")), 5) == []

    asyncio.run(story())


def test_an_id_of_another_process_begins_anew() -> None:
    hub, other = EventHub(), EventHub()
    hub.channel("a").send("state", {})

    async def first() -> str:
        async for event in hub.channel("a").follow():
            return hub.event_id(event)
        return ""

    event_id = asyncio.run(first())
    channel = hub.channel("a")
    assert hub.number_of(event_id, channel) == 1
    assert hub.number_of(event_id.split("-")[0] + "-2", channel) == 0  # never sent
    assert other.number_of(event_id, channel) == 0
    for wrong in (None, "", "x", event_id + "x", event_id.split("-")[0] + "--1", event_id.split("-")[0] + "-²"):
        assert hub.number_of(wrong, channel) == 0


def test_a_reader_who_leaves_is_forgotten() -> None:
    async def story() -> None:
        channel = Channel()
        reader = asyncio.ensure_future(numbers(channel))
        await asyncio.sleep(0.01)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert not channel._readers

    asyncio.run(story())
