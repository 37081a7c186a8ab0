import signal
import sys

import pytest

from spermseg.ray_settings import connect


@pytest.fixture
def asked_to_end():
    """What this process does when it is asked to end: it raises."""

    class AskedError(KeyboardInterrupt):
        pass

    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise AskedError

    before = signal.signal(signal.SIGTERM, stop)
    yield AskedError
    signal.signal(signal.SIGTERM, before)


def ray_init(*, interrupt: bool, then: BaseException | None = None):
    """As `ray.init`, which puts its own way to end in place, and may be asked to end, or go wrong."""

    def init(**_options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        if interrupt:
            signal.raise_signal(signal.SIGTERM)
        if then is not None:
            raise then

    return init


def test_a_process_that_is_asked_to_end_while_ray_starts_ends_its_own_way(asked_to_end):
    with pytest.raises(asked_to_end):
        connect(ray_init(interrupt=True), "local")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # the way out is not cut short


@pytest.mark.parametrize("then", [SystemExit(1), KeyboardInterrupt()])
def test_what_goes_wrong_while_ray_starts_comes_through_and_the_way_to_end_is_our_own_again(asked_to_end, then):
    with pytest.raises(type(then)) as raised:
        connect(ray_init(interrupt=False, then=then), "local")
    assert raised.value is then
    with pytest.raises(asked_to_end):
        signal.raise_signal(signal.SIGTERM)


def test_once_ray_has_started_the_way_to_end_is_our_own_again(asked_to_end):
    connect(ray_init(interrupt=False), "local")
    with pytest.raises(asked_to_end):
        signal.raise_signal(signal.SIGTERM)
