"""A night on real Ray processes with uploads that end the process which decodes them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.archive_files import tar_gz_of
from support.dark_cells import name_of, night_over, picture, zip_of
from support.hostile_decoder import decode, marked
from support.patient import patient

from spermseg.batch import pipeline
from spermseg.batch.pipeline import FAILURES_AT_FIRST
from spermseg.batch.pool import Workers
from spermseg.batch.run import segment_night
from spermseg.batch.worker.loss_limits import BRIEFLY_TRIED, CRASHED, NOT_TRIED, LossLimits
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import Patience
from spermseg.table.latest import read_current
from spermseg.table.results import read_units
from spermseg.table.verify import verify

pytestmark = pytest.mark.ray

HANG_S = 10
HUNG_OR_GONE = f"crashed the decoder (it hung for {HANG_S} s, or ended its process); export the picture again"
HOSTILE = {
    "patient-1/segfault.png": (b"segfault", "crashed the decoder (SIGSEGV); export the picture again"),
    "patient-2/abort.png": (b"abort", "crashed the decoder (SIGABRT); export the picture again"),
    "patient-2/hang.png": (b"hang", HUNG_OR_GONE),
    "patient-3/memory.png": (
        b"memory",
        "crashed the decoder: it takes more memory than the largest picture allowed; export the picture again",
    ),
    "patient-4/cuda.png": (
        b"cuda",
        "could not be segmented: RuntimeError: CUDA error: an illegal memory access was encountered; export the "
        "picture again",
    ),
    "patient-4/fail.png": (b"fail", "the decoder failed: ZeroDivisionError: no pixel"),
}


@pytest.fixture
def uploads(tmp_path) -> Location:
    """Uploads of which every fifth is hostile, alone and in an archive."""
    source = Location(str(tmp_path / "uploads"))
    for folder in range(5):
        for number in range(4):
            source.child(f"patient-{folder}/{number}.png").write_bytes(picture(number))
    for name, (deed, _) in HOSTILE.items():
        source.child(name).write_bytes(marked(picture(5), deed))
    members = [(f"{n}.png", picture(n)) for n in range(6)]
    members.insert(3, ("hostile.png", marked(picture(5), b"abort")))
    source.child("patient-5/monday.zip").write_bytes(zip_of(members))
    return source


def test_pictures_that_crash_hang_or_starve_their_decoder_are_rejected_and_every_other_one_completes(
    cluster, uploads, out, model
):
    workers = Workers(count=2, address=cluster, decode=decode, hang_s=HANG_S)
    (receipt,) = segment_night(night_over(uploads, out, model, workers=workers), lambda progress: None)
    rows = [row for table in read_units(out) for row in table.to_pylist()]
    reasons = {row["uri"].removeprefix(uploads.uri + "/"): row["reason"] for row in rows if row["status"] == "rejected"}
    assert reasons == {
        **{name: reason for name, (_, reason) in HOSTILE.items()},
        "patient-5/monday.zip": HOSTILE["patient-2/abort.png"][1],
    }
    cells = {(row["uri"], row["member"]): row["n_cells"] for row in rows if row["status"] == "ok"}
    assert {int((member or uri)[-5]): n for (uri, member), n in cells.items()} == {n: n for n in range(6)}
    assert (receipt.planned, receipt.ok, receipt.rejected) == (33, 26, 7)
    assert verify(out) == (33, [])


def test_more_units_than_may_fail_at_first_are_done_in_isolation_where_others_were_done(cluster, tmp_path, out, model):
    uploads = Location(str(tmp_path / "uploads"))
    failing = FAILURES_AT_FIRST + 2
    members = [
        (f"{unit:02}/{number}.png", marked(picture(number), b"crowd") if unit and number else picture(number))
        for unit in range(1 + failing)
        for number in range(4)
    ]
    uploads.child("in-order.tar.gz").write_bytes(tar_gz_of(members))  # one fetch job: the unit that succeeds is first
    workers = Workers(count=1, address=cluster, decode=decode)
    (receipt,) = segment_night(night_over(uploads, out, model, workers=workers), lambda progress: None)
    assert (receipt.units, receipt.ok, receipt.rejected) == (1 + failing, 4 * (1 + failing), 0)


HANGS, GOOD_OF_A, GOOD_OF_B = 40, 4, 10
LEFT = 3
"""Of those that hang, how many are still there when they are tried again."""


@pytest.fixture
def crowd(tmp_path) -> Location:
    """One group of pictures of which nearly all hang, and another that shares a unit with it."""
    source = Location(str(tmp_path / "uploads"))
    for number in range(HANGS + GOOD_OF_A):
        is_good = number % 11 == 5
        data = picture(number % 7) if is_good else marked(picture(1), b"hang")
        source.child(f"clinic-a/{number:02}-{'good' if is_good else 'hangs'}.png").write_bytes(data)
    for number in range(GOOD_OF_B):
        source.child(f"clinic-b/{number:02}-good.png").write_bytes(picture(number))
    return source


@pytest.fixture
def impatient() -> Iterator[None]:
    """What a pipeline waits for while nothing is done is not made longer by a storage that may be away."""
    with patient(Patience(total_s=0)):
        yield


def rows_by_name(out: Location, source: Location) -> dict[str, dict]:
    return {name_of(row, source): row for table in read_current(out) for row in table.to_pylist()}


def test_a_group_whose_pictures_hang_costs_the_others_nothing_and_itself_what_is_told(
    cluster, crowd, out, model, impatient, monkeypatch, caplog
):
    short, wide = LossLimits(group_s=5, run_s=50), LossLimits(group_s=1000, run_s=1000)
    workers = Workers(count=2, address=cluster, decode=decode, hang_s=5, losses=short)
    night, started = night_over(crowd, out, model, workers=workers, unit_micrographs=16), time.monotonic()
    (receipt,) = segment_night(night, lambda progress: None)
    rows = rows_by_name(out, crowd)
    assert receipt.planned == len(rows) == HANGS + GOOD_OF_A + GOOD_OF_B
    assert verify(out) == (receipt.planned, [])
    assert "pictures crashed or hung their decoder" in caplog.text
    rejected = {name: row["reason"] for name, row in rows.items() if row["status"] == "rejected"}
    hanging = [name for name in rejected if "hangs" in name]
    assert len(hanging) == HANGS
    assert all(name.startswith("clinic-a/") for name in rejected)
    assert all(reason.startswith(NOT_TRIED) for name, reason in rejected.items() if "good" in name)
    kinds = {reason.partition(" (")[0].partition(":")[0] for reason in rejected.values()}
    assert {CRASHED, NOT_TRIED} <= kinds <= {CRASHED, NOT_TRIED, BRIEFLY_TRIED}

    for name in hanging[LEFT:]:
        crowd.child(name).delete()
    monkeypatch.setattr(pipeline, "SHARED_PASSES", 0)  # what these do was seen
    # Longer than any picture takes on this machine at this hour, and not so long as those of a unit take together.
    monkeypatch.setattr(pipeline, "NO_PROGRESS_S", (time.monotonic() - started) / 4)
    segment_night(replace(night, workers=replace(workers, losses=wide), retry_rejected=True), lambda progress: None)
    now = {name: row["status"] for name, row in rows_by_name(out, crowd).items()}
    assert {name for name, status in now.items() if status == "ok"} == {name for name in rows if "good" in name}
    assert verify(out)[1] == []


def test_ray_does_not_announce_the_workers_that_die():
    """Where the pipeline is what imports Ray, as in the command; here, it is imported already."""
    said = "import spermseg.batch.pipeline; from ray._private.worker import print_to_stdstream as say; "
    said += "say({'lines': ['A worker died'], 'pid': 'raylet', 'is_err': False}, ignore_prefix=False)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert not done.stdout
