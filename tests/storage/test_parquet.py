"""The one door for Parquet files, with real payloads: what lies in a bucket does not run."""

import importlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spermseg.cli.export import Export
from spermseg.cli.report import Report
from spermseg.cli.verify import Verify
from spermseg.errors import DamagedError
from spermseg.storage.filesystem import Location
from spermseg.storage.parquet import encode_parquet, open_parquet
from spermseg.table.plan import PLAN_SCHEMA, Plan
from spermseg.table.results import SCHEMA, read_unit
from spermseg.table.run_folder import RunFolder

PICKLED = b"ray.data.arrow_pickled_object"
TENSORS = {
    b"ray.data.arrow_tensor": pa.list_(pa.int64()),
    b"ray.data.arrow_tensor_v2": pa.large_list(pa.int64()),
    b"ray.data.arrow_variable_shaped_tensor": pa.struct([("data", pa.list_(pa.int64()))]),
}
READS = """
import os, sys
from contextlib import suppress
import pyarrow.parquet as pq
import ray.data
from spermseg.table.plan import Plan
from spermseg.table.results import read_unit
from spermseg.errors import DamagedError
from spermseg.storage.filesystem import Location

mark, *files = sys.argv[1:]
for place in map(Location, files):
    for read in (lambda: read_unit(place).to_pylist(), lambda: Plan(place).unit(0), lambda: Plan(place, whole=True)):
        try:
            read()
        except DamagedError as error:
            print("refused:", error.message)
print("ran:", os.path.exists(mark))
with suppress(Exception):
    pq.ParquetFile(files[0]).read().to_pylist()
print("runs without the door:", os.path.exists(mark))
"""
OLDER_RAY = {"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "1"}
"""What earlier versions of Ray did unasked: unpickle what a tensor's type says, when a file is opened."""


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def extension(name: str, kind: bytes, storage: pa.DataType, said: bytes = b"") -> pa.Field:
    metadata = {b"ARROW:extension:name": kind, b"ARROW:extension:metadata": said}
    return pa.field(name, storage, metadata=metadata)


def payloads(mark: Path) -> dict[str, bytes]:
    """Return files that run code in whoever reads them with pyarrow where `ray.data` is imported."""
    evil = pickle.dumps(Evil(mark))
    pickled = extension("x", PICKLED, pa.large_binary())
    columns = {
        "pickled": (extension("image_id", PICKLED, pa.large_binary()), [evil]),
        "within a list": (pa.field("image_id", pa.list_(pickled)), [[evil]]),
        "within a struct": (pa.field("image_id", pa.struct([pickled])), [{"x": evil}]),
        **{kind.decode(): (extension("image_id", kind, storage, evil), [None]) for kind, storage in TENSORS.items()},
    }
    files = {}
    for name, (field, values) in columns.items():
        for others in (SCHEMA, PLAN_SCHEMA):
            schema = pa.schema([field, *(one for one in others if one.name != "image_id")])
            empty = [pa.nulls(1, one.type) for one in schema][1:]
            file = io.BytesIO()
            storage = pa.array(values, field.type)
            pq.write_table(pa.Table.from_arrays([storage, *empty], schema=_nullable(schema)), file)
            files[f"{name}, {len(others)}"] = file.getvalue()
    return files


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def test_nothing_in_a_file_runs_where_ray_data_has_registered_its_types(tmp_path):
    mark = tmp_path / "mark"
    for number, (name, data) in enumerate(payloads(mark).items()):
        (tmp_path / f"{number}.parquet").write_bytes(data)
        with pytest.raises(DamagedError, match="Arrow extension type"):
            open_parquet(io.BytesIO(data), {}, 6)
        assert not mark.exists(), name
    files = sorted(map(str, tmp_path.glob("*.parquet")))
    command = [sys.executable, "-c", READS, str(mark), *files]
    done = subprocess.run(command, env=os.environ | OLDER_RAY, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused:") == 3 * len(files)
    assert "ran: False" in done.stdout
    assert "runs without the door: True" in done.stdout  # or else this test would prove nothing


@pytest.mark.parametrize("offset", range(6))
def test_an_extension_type_is_seen_wherever_it_stands(offset):
    field = extension("n" * (4 + offset), PICKLED, pa.large_binary())
    for padding in ({}, {b"a" * (offset + 1): b"b"}):
        padded = field.with_metadata({**padding, **field.metadata})
        file = io.BytesIO()
        table = pa.Table.from_arrays([pa.array([b""], pa.large_binary())], schema=pa.schema([padded]))
        pq.write_table(table, file)
        with pytest.raises(DamagedError, match="Arrow extension type"):
            open_parquet(file, {}, 6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("image_id", pa.binary()), ("image_id", pa.dictionary(pa.int32(), pa.string())), ("size", pa.int8())],
)
def test_a_column_of_another_type_is_refused_before_it_is_read(tmp_path, name, kind):
    fields = [pa.field(field.name, kind if field.name == name else field.type) for field in PLAN_SCHEMA]
    place = Location(str(tmp_path / "plan.parquet"))
    place.write_bytes(encode_parquet(pa.schema(fields).empty_table()))
    with pytest.raises(DamagedError, match=f"its column {name} is of the type .*; .* is needed"):
        Plan(place)


def test_a_name_of_an_upload_that_looks_like_an_extension_type_is_a_name(tmp_path):
    names = ["QVJST1c6ZXh0ZW5zaW9u", "ARROW:extension:name"]
    row = {
        "image_id": "1",
        "run_id": "r",
        "model_sha256": "m",
        "recipe_sha256": "s",
        "version": "1",
        "status": "rejected",
    }
    place = Location(str(tmp_path / "unit-1.parquet"))
    place.write_bytes(encode_parquet(pa.Table.from_pylist([row | {"uri": name} for name in names], schema=SCHEMA)))
    assert read_unit(place)["uri"].to_pylist() == names


def test_a_hostile_file_is_named_by_the_commands_and_none_of_them_runs_it(tmp_path, capsys):
    importlib.import_module("ray.data")  # registers its types
    mark, out = tmp_path / "mark", Location(str(tmp_path / "results"))
    data = payloads(mark)["pickled, 12"]
    RunFolder(out, "run-1").plan.write_bytes(data)
    RunFolder(out, "run-1").unit("ab").write_bytes(payloads(mark)[f"pickled, {len(SCHEMA)}"])
    assert Verify(out=out.uri).run() == 1
    assert capsys.readouterr().out.count("names an Arrow extension type") == 2
    assert Report(out=out.uri, html=str(tmp_path / "report.html")).run() == 1
    assert Export(out=out.uri, to=str(tmp_path / "rows.parquet")).run() == 1
    assert not mark.exists()
