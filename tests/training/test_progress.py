"""How far a training is, on its way from the worker to the terminal. Without Ray."""

import threading
from types import SimpleNamespace

from spermseg.errors import StorageError
from spermseg.training import progress
from spermseg.training.progress import Board, seldom, shown


def test_progress_that_cannot_be_written_is_said_and_tried_again(monkeypatch):
    seen, said, written = [], [], threading.Event()
    monkeypatch.setattr(progress.logger, "warning", lambda text, *words: said.append(text % words))

    def on_report(report):
        seen.append(report)
        if len(seen) < 3:
            raise StorageError("the bucket is full")
        written.set()

    with shown(lambda: "report", on_report, every_s=0.001):
        assert written.wait(20)
    assert said == ["the progress could not be written: the bucket is full"] * 2


def test_what_cannot_be_read_is_not_shown_and_read_again():
    seen, reports, shown_twice = [], iter([None, "first", None]), threading.Event()

    def on_report(report):
        seen.append(report)
        if len(seen) == 2:
            shown_twice.set()

    with shown(lambda: next(reports, "second"), on_report, every_s=0.001):
        assert shown_twice.wait(20)
    assert seen[:2] == ["first", "second"]


def test_steps_that_follow_soon_are_left_out_but_the_last_of_an_epoch():
    board = Board()
    assert board.read() is None
    post, posted = seldom(board.post, every_s=3600), []
    for step in (1, 2, 3, 4):
        post(SimpleNamespace(step=step, steps=4))
        posted.append(board.read().step)
    assert posted == [1, 1, 1, 4]
