"""An engine's clock at the time of the database server's: near it, and never ahead of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from wfes.errors import LogUnavailable
from wfes.log.open import open_log
from wfes.runtime.clock import SystemClock
from wfes.runtime.server_time import ServerTime, server_time

MS = 1_000_000
HOUR = 3_600_000 * MS


class Network:
    """A server with a clock of its own, some way off."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.monotonic = 5 * HOUR
        self.ahead = 400_000 * HOUR
        self.trip = 1 * MS
        self.away = False

    def read(self) -> int:
        if self.away:
            raise LogUnavailable("postgresql://x/y", "it is away")
        self.monotonic += self.random.randrange(self.trip)
        now = self.monotonic + self.ahead
        self.monotonic += self.random.randrange(self.trip)
        return now


def made(network: Network) -> tuple[ServerTime, SystemClock]:
    loop = asyncio.new_event_loop()
    loop.close()
    clock = SystemClock(loop, wall=lambda: 7, monotonic=lambda: network.monotonic)
    return ServerTime(network.read, clock, lambda: network.monotonic), clock


def behind(network: Network, clock: SystemClock) -> int:
    """Nanoseconds by which the clock is behind the server's."""
    return network.monotonic + network.ahead - clock.now() * 1_000


@pytest.mark.parametrize("seed", range(20))
def test_it_is_near_the_server_s_and_never_ahead(seed: int) -> None:
    network = Network(seed)
    time, clock = made(network)
    assert clock.now() == 0, "this machine's clock counts until the server's is known"
    for _ in range(20):
        network.trip = network.random.choice([MS, 20 * MS])
        time.look()
        network.monotonic += network.random.randrange(10_000 * MS)
        assert 0 <= behind(network, clock) <= 40 * MS


def test_a_slow_answer_does_not_set_it_back() -> None:
    network = Network()
    time, clock = made(network)
    time.look()
    known = clock.ahead
    network.trip = 5_000 * MS
    time.look()
    assert clock.ahead == known


@pytest.mark.parametrize("jump", [-HOUR, HOUR, -5 * MS, 5 * MS])
def test_it_follows_a_server_s_clock_that_is_set(jump: int) -> None:
    network = Network()
    time, clock = made(network)
    time.look()
    network.ahead += jump
    time.look()
    assert 0 <= behind(network, clock) <= 2 * MS


def test_it_goes_on_while_the_server_is_away() -> None:
    network = Network()
    time, clock = made(network)
    time.look()
    network.away = True
    with pytest.raises(LogUnavailable):
        time.look()
    network.monotonic += HOUR
    assert 0 <= behind(network, clock) <= 2 * MS


def test_where_there_is_no_server_this_machine_s_clock_counts() -> None:
    _, clock = made(Network())
    assert server_time(open_log("sqlite://"), clock) is None
