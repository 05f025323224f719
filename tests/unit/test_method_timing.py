"""Two calls in turns, on a clock that the test turns."""

import numpy as np
import pytest

from conformance.method import timing


class Clock:
    """Stands still but for what calls take."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_who_goes_first_changes(clock):
    one, other = timing.in_turns(clock.call("a", 1.0), clock.call("b", 3.0), turns=3, seconds=1e9)
    assert "".join(clock.calls) == "aabb" + "abbaab"
    assert np.allclose(one, [1.0] * 3)
    assert np.allclose(other, [3.0] * 3)


def test_turns_end_with_their_time_but_not_before_the_least(clock):
    long = clock.call("a", 1.0), clock.call("b", 1.0)
    assert timing.in_turns(*long, turns=100, seconds=0)[0].size == 7
    assert timing.in_turns(*long, turns=100, seconds=0, least=2)[0].size == 2
    assert timing.in_turns(*long, turns=100, seconds=40)[0].size == 21
