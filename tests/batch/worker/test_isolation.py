"""Pictures that crash, hang or starve their decoder, alone and among others."""

import errno
import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import pytest
from support.dark_cells import CELLS, HALF, PREDICT, VIEW, picture
from support.forks.children import forked_children
from support.hostile_decoder import decode, marked

from spermseg.batch.worker import isolation
from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.isolation import IsolatedSegmenter
from spermseg.batch.worker.loss_limits import CRASHED, NOT_TRIED, LossCount, LossLimits
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.process_limits import limit_memory
from spermseg.batch.worker.segment import IsolateUnit
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.batch.worker.timing import Spent
from spermseg.errors import ModelFileError, RunError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.model.saved import decode_model
from spermseg.table.plan import Planned, encode_plan
from spermseg.table.results import list_units
from spermseg.table.run_folder import RunFolder

TIMES = ("decode_ms", "predict_ms", "measure_ms")
HANG_S = 5
HUNG_OR_GONE = f"crashed the decoder (it hung for {HANG_S} s, or ended its process); export the picture again"
REASONS = {
    b"segfault": "crashed the decoder (SIGSEGV); export the picture again",
    b"exit": HUNG_OR_GONE,
    b"lock": HUNG_OR_GONE,
    b"memory": "crashed the decoder: it takes more memory than the largest picture allowed; export the picture again",
}


@pytest.fixture
def segmenting(model) -> Segmenting:
    return Segmenting(
        model=model,
        settings=SegmentSettings(view=VIEW, cells=CELLS, max_megapixels=1.0),
        predict=PREDICT,
        run_id="night-1",
        decode=decode,
        hang_s=HANG_S,
    )


@pytest.fixture
def quick(monkeypatch, python_that_forks):
    """Children start in no time. Without this, each is a fresh Python, as in a night."""
    monkeypatch.setattr(isolation, "ProcessPoolExecutor", forked_children())


@pytest.fixture
def isolated(segmenting, quick):
    isolated = IsolatedSegmenter(segmenting)
    yield isolated
    isolated.close()


class OfRay:
    """What cannot travel to a process that is none of Ray's, as the handle of an actor."""

    def __call__(self, line: str) -> None:
        pass

    def __reduce__(self):
        raise TypeError("this is Ray's")


def test_a_child_is_given_nothing_of_rays(segmenting):
    isolated = IsolatedSegmenter(replace(segmenting, patience=replace(segmenting.patience, tell=OfRay())))
    unit, fetched = unit_of(picture(3))
    assert [row["n_cells"] for _, row in isolated.segment_each(unit, fetched)] == [3]
    isolated.close()


def unit_of(*files: bytes, groups: str = "") -> tuple[list[Planned], list[Fetched]]:
    """Return a unit, each file of the group that a letter names where there are any."""
    planned = [
        Planned(image_id=f"id-{n}", uri=f"/{n}.png", group=group, size=len(data), data_size=len(data), etag="e")
        for n, (data, group) in enumerate(zip(files, groups or [None] * len(files), strict=True))
    ]
    return planned, [Fetched(data=data) for data in files]


def lasting(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in TIMES}


@pytest.mark.parametrize(
    ("view", "suffix", "engine"),
    [(VIEW, ".png", "openvino"), (HALF, ".jpg", "torch")],
    ids=["whole", "reduced"],
)
def test_a_unit_has_the_rows_in_isolation_that_it_has_without(segmenting, view, suffix, engine):
    settings, predict = replace(segmenting.settings, view=view), replace(PREDICT, engine=engine)
    segmenting = replace(segmenting, settings=settings, predict=predict)
    cut = picture(3, suffix)[:200]
    planned, fetched = unit_of(picture(5, suffix), cut, picture(0), picture(7, suffix))
    fetched[2] = Fetched(reason="changed since planned")
    together = UnitSegmenter(
        decode_model(segmenting.model), segmenting.settings, segmenting.predict, run_id="night-1"
    ).segment(planned, fetched)
    with closing(IsolatedSegmenter(segmenting)) as isolated:
        alone = isolated.segment(planned, fetched)
    assert [lasting(row) for row in alone] == [lasting(row) for row in together]
    assert [row["status"] for row in alone] == ["ok", "rejected", "rejected", "ok"]


def test_pictures_that_end_their_process_are_rejected_and_their_neighbours_are_not(isolated):
    hostile = [marked(picture(4), deed) for deed in REASONS]
    before, *crashed, after = isolated.segment(*unit_of(picture(3), *hostile, picture(6)))
    assert (before["n_cells"], after["n_cells"]) == (3, 6)
    assert [row["reason"] for row in crashed] == list(REASONS.values())
    assert {row["status"] for row in crashed} == {"rejected"}
    assert [row["content_sha256"] for row in crashed] == [hashlib.sha256(data).hexdigest() for data in hostile]
    assert all(row.keys() <= before.keys() for row in crashed)


def test_a_picture_is_not_blamed_for_what_an_earlier_one_did_to_the_child(isolated):
    """The second fails its brief trial for the first, and harms the fourth in its full one."""
    poisons = [marked(picture(cells), b"poison") for cells in (3, 4, 5)]
    planned, fetched = unit_of(*poisons, picture(6))
    assert [row["n_cells"] for row in isolated.segment(planned, fetched)] == [3, 4, 5, 6]


def test_a_fault_of_the_software_is_the_reason_of_the_one_picture_that_shows_it(isolated):
    strange, right = isolated.segment(*unit_of(marked(picture(3), b"strange"), picture(4)))
    assert strange["reason"].startswith("could not be segmented: AttributeError: ")
    assert right["n_cells"] == 4


def test_what_is_tried_too_long_is_rejected_and_costs_no_other_group_and_no_whole_picture_before_it_a_row(
    segmenting, quick
):
    hostile = marked(picture(4), b"abort")
    unit = unit_of(hostile, picture(1), hostile, picture(2), picture(3), hostile, groups="AABABB")
    with closing(IsolatedSegmenter(segmenting, LossCount(LossLimits(group_s=1e-6)))) as isolated:
        rows = isolated.segment(*unit)
    how = [row["reason"] and row["reason"].partition(":")[0].partition(" (")[0] for row in rows]
    assert how == [CRASHED, NOT_TRIED, CRASHED, NOT_TRIED, NOT_TRIED, NOT_TRIED]
    assert rows[1]["reason"] == (
        "not tried: pictures of its group crashed or hung the decoder for 1e-06 s; --retry-rejected tries it again"
    )


def test_whole_pictures_behind_hostile_ones_have_their_rows_before_any_hostile_one_is_tried_at_length(
    segmenting, quick
):
    hostile = marked(picture(4), b"abort")
    with closing(IsolatedSegmenter(segmenting)) as isolated:
        known = list(isolated.segment_each(*unit_of(hostile, picture(3))))
    assert [(place, row["reason"] and row["reason"].partition(" (")[0]) for place, row in known] == [
        (1, None),
        (0, CRASHED),
    ]


def test_each_picture_of_an_isolated_unit_is_told_of_before_the_unit_is_done(segmenting, out):
    planned, fetched = unit_of(b"", b"")
    run = RunFolder(out, segmenting.run_id)
    run.plan.write_bytes(encode_plan([planned], {})[0])
    data = {"data": [one.data for one in fetched], "reasons": [f"{CRASHED}: x", "gone"]}
    told = IsolateUnit(run, segmenting, 1)({"kind": "fetched", "unit": 0, "spent": asdict(Spent()), **data})
    assert [next(told)["reason"] for _ in planned] == data["reasons"]
    assert not list_units(out)
    assert [one["rejected"] for one in told] == [len(planned)]
    assert list_units(out)


@dataclass(frozen=True)
class BrokenMachine:
    """A decoder on a machine that cannot decode anything."""

    def __call__(self, data, **_):
        raise MemoryError


def test_where_nothing_can_be_segmented_no_upload_is_blamed(segmenting, quick):
    with (
        closing(IsolatedSegmenter(replace(segmenting, decode=BrokenMachine()))) as isolated,
        pytest.raises(RunError, match="not even a synthetic picture can be segmented here: crashed the decoder"),
    ):
        isolated.segment(*unit_of(picture(3)))


def test_a_child_that_cannot_segment_says_why_in_one_line(segmenting, capfd):
    with (
        closing(IsolatedSegmenter(replace(segmenting, model=b"no model"))) as isolated,
        pytest.raises(ModelFileError) as caught,
    ):
        isolated.segment(*unit_of(picture(3)))
    assert "\n" not in caught.value.message
    assert "Traceback" not in capfd.readouterr().err


def test_a_child_that_the_machine_does_not_start_is_one_line(segmenting, monkeypatch):
    def no_process(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(isolation, "ProcessPoolExecutor", no_process)
    with (
        closing(IsolatedSegmenter(segmenting)) as isolated,
        pytest.raises(RunError, match=r"could not be started: .*Too many open files") as caught,
    ):
        isolated.segment(*unit_of(picture(3)))
    assert "\n" not in caught.value.message


def test_the_child_ends_with_the_segmenter(isolated):
    before = set(psutil.Process().children(recursive=True))
    isolated.segment(*unit_of(picture(3)))
    started = set(psutil.Process().children(recursive=True)) - before
    assert started
    isolated.close()
    _, alive = psutil.wait_procs(list(started), timeout=20)
    assert not [child for child in alive if "resource_tracker" not in " ".join(child.cmdline())]


def test_a_process_that_is_bounded_has_its_allocation_refused():
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, initializer=limit_memory, initargs=(256 * 2**20,)) as pool:
        assert pool.apply(bytearray, (2**20,)) == bytearray(2**20)
        with pytest.raises(MemoryError):
            pool.apply(bytearray, (2**29,))


def test_a_decoder_that_hangs_ends_its_process(segmenting, tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=segment_a_picture_that_hangs, args=(segmenting, tmp_path / "done"))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 1
    assert not (tmp_path / "done").exists()


def segment_a_picture_that_hangs(segmenting: Segmenting, done: Path) -> None:
    segmenting.start(threads=2).segment(*unit_of(picture(3), marked(picture(1), b"lock")))
    done.touch()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_a_whole_picture_is_not_called_corrupt_where_memory_is_short(suffix):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        decoding = pool.submit(decode_with_too_little_memory, picture(3, suffix, height=4000, width=5000))
        with pytest.raises(MemoryError):
            decoding.result()


def decode_with_too_little_memory(data: bytes) -> None:
    decode_micrograph(picture(3, ".tif"))  # what is loaded at the first picture is loaded
    limit_memory(16 * 2**20)
    decode_micrograph(data)
