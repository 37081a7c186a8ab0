"""The one door for Parquet files: nothing in a file runs, and no value is read before its columns are as expected.

Arrow keeps its own schema in a Parquet file, extension types by name. Where a package has registered such a type, as
`ray.data` has for pickled Python objects and for tensors, pyarrow hands it what the file says as soon as the file is
opened, and again for each value: whoever can write the file could have code run here. No file of this project has an
extension type. So one that names any is refused from the bytes of its directory, before pyarrow sees them.
"""

import io
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from spermseg.errors import DamagedError, RunError, SpermsegError, first_line
from spermseg.storage.seal import BLANK, read_seal, seal

VERSION = "spermseg_schema_version"
"""Key of the version of a file's columns, in its metadata."""
SEALED_FROM = 6
"""Versions from this one on have a seal."""
MOST_DIRECTORY = 1 << 30
"""Bytes of a directory: that of a plan of a hundred million uploads."""
TAIL = 1 << 16
"""Bytes from the end that are read first: nearly all directories are in them."""
_SEAL = "spermseg_sha256"
_MARK = _SEAL.encode() + b"\x18\x40"
"""In Thrift's compact protocol: the key, then a text of 64 bytes."""
_MAGIC, _END = b"PAR1", 8
_EXTENSION = tuple(b64encode(bytes(shift) + b"ARROW:extension")[2 * shift : -4] for shift in range(3))
"""What every extension type's name begins with, in base64, as it stands in a directory from each of three places on."""


@contextmanager
def reading(name: str, advice: str) -> Iterator[None]:
    """Turn whatever pyarrow raises for bytes that are not what they should be into an error of ours.

    Args:
        name: the file.
        advice: what to do.

    Raises:
        DamagedError: it is damaged.
        RunError: this process has too little memory for it.
    """
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged ({error.message}); {advice}") from error
    except SpermsegError:
        raise
    except MemoryError as error:  # of this process, which says nothing of the file
        raise RunError(f"{name} could not be read: this process has too little memory left") from error
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged ({first_line(error)}); {advice}") from error


def encode_parquet(table: pa.Table) -> bytes:
    """Return a table as one sealed Parquet file, each page with a checksum of its own.

    Texts have no statistics: those of an upload's name would stand in the directory, where nobody's words belong.
    """
    file = io.BytesIO()
    with sealed_writer(file, table.schema) as writer:
        writer.write_table(table)
    return seal_parquet(file.getvalue())


@contextmanager
def sealed_writer(file: Any, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a Parquet file to write; `seal_parquet` of its bytes completes it."""
    options = {"compression": "zstd", "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(file, schema, use_dictionary=False, **options) as writer:
        yield writer
        writer.add_key_value_metadata({_SEAL: BLANK})


def seal_parquet(data: bytes) -> bytes:
    """Return a file of `sealed_writer` with its seal."""
    return seal(data, _MARK)


def check_seal(data: bytes) -> str:
    """Return the seal of a file; empty where it is of an earlier version, which had none.

    Raises:
        DamagedError: its bytes are not those that were written.
    """
    return read_seal(data, _MARK)


def open_parquet(file: BinaryIO, types: Mapping[str, pa.DataType], newest: int) -> pq.ParquetFile:
    """Return a Parquet file whose columns are of the types expected; others than these must not be read from it.

    Args:
        file: its bytes, seekable.
        types: name -> type; a column that the file lacks is the caller's matter.
        newest: the latest version that can be read.

    Raises:
        DamagedError: it is no Parquet file, names an extension type, has a column of another type, or says that it is
            of a version that has a seal and has none.
        RunError: it is of a later version.
    """
    directory = _directory(file)
    if any(name in directory for name in _EXTENSION):
        raise DamagedError("it names an Arrow extension type, as no file of spermseg does: to read it could run code")
    metadata = pq.ParquetFile(pa.BufferReader(_MAGIC + directory), pre_buffer=False).metadata
    said = metadata.metadata or {}
    check_version(_version(said), newest)
    opened = open_again(file, metadata)
    for field in opened.schema_arrow:
        wanted = types.get(field.name)
        if wanted is not None and field.type != wanted:
            raise DamagedError(f"its column {field.name} is of the type {field.type}; {wanted} is needed")
    if len(set(opened.schema_arrow.names)) < len(opened.schema_arrow.names):
        raise DamagedError("it has two columns of one name")
    if len(said.get(_SEAL.encode(), b"")) != len(BLANK) and _version(said) >= SEALED_FROM:
        raise DamagedError("it has no digest of its own, as files of its version have")
    return opened


def open_again(file: BinaryIO, metadata: pq.FileMetaData) -> pq.ParquetFile:
    """Return a Parquet file whose directory `open_parquet` has looked at, to read from its first byte on.

    Arrow reads nothing ahead: its threads for that let go of Python's bytes when they are done, and where the program
    has ended by then, it ends with SIGABRT instead of its status.
    """
    return pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True, pre_buffer=False)


def said_seal(file: pq.ParquetFile) -> str:
    """Return the seal that a file says, unproved; empty where it has none."""
    return str((file.metadata.metadata or {}).get(_SEAL.encode(), b"").decode("ascii", "replace"))


def said_metadata(file: pq.ParquetFile) -> dict[str, str]:
    """Return what a file says of itself, beside its version and its seal."""
    stored: dict[bytes, bytes] = file.metadata.metadata or {}
    ours = (_SEAL, VERSION, "ARROW:schema")
    return {key.decode(): value.decode() for key, value in stored.items() if key.decode() not in ours}


def check_version(version: int, newest: int) -> None:
    """See that a file is of a version that is known.

    Raises:
        RunError: it is of a later one.
    """
    if version > newest:
        raise RunError(f"a file of the table is of version {version}, and this spermseg knows {newest}: update it")


def _version(said: Mapping[bytes, bytes]) -> int:
    text = said.get(VERSION.encode(), b"0")
    return int(text) if text.isdigit() else 0


def _directory(file: BinaryIO) -> bytes:
    """Return a file's directory, with the eight bytes that end it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read(TAIL)
    length = int.from_bytes(tail[-_END:-4], "little") + _END
    if tail[-4:] != _MAGIC or length + len(_MAGIC) > size:
        raise DamagedError("it is no Parquet file, or is cut off")
    if length > MOST_DIRECTORY:
        raise DamagedError(f"its directory has {length} bytes; at most {MOST_DIRECTORY} are read")
    if length > len(tail):
        file.seek(size - length)
        tail = file.read(length - len(tail)) + tail
    return tail[-length:]
