"""Reading and writing of Parquet files. Every Parquet file is opened here, so that no code in a file can run.

A Parquet file can hold an Arrow schema that names extension types. If a package has registered such a type, pyarrow
passes the metadata of the file to that package when the file is opened, and again for each value. `ray.data` registers
types for pickled Python objects and for tensors. Anyone who can write the file could therefore execute code here. No
file of this project has an extension type. A file that names one is refused: its footer is searched as bytes, before
pyarrow parses it.

In this module, "directory" means the Parquet footer. The types of the columns are checked before any value is read.
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
"""Key of the schema version in the metadata of a file."""
SEALED_FROM = 6
"""The first schema version whose files have a seal."""
MOST_DIRECTORY = 1 << 30
"""Limit on the bytes of a directory: that of a plan of a hundred million uploads."""
TAIL = 1 << 16
"""Bytes from the end of a file that are read first. Nearly all directories fit."""
_SEAL = "spermseg_sha256"
_MARK = _SEAL.encode() + b"\x18\x40"
"""The key and the header of a text of 64 bytes, in Thrift's compact protocol."""
_MAGIC, _END = b"PAR1", 8
_EXTENSION = tuple(b64encode(bytes(shift) + b"ARROW:extension")[2 * shift : -4] for shift in range(3))
"""First letters of the metadata keys of extension types, in base64. The three variants are the possible alignments."""


@contextmanager
def reading(name: str, advice: str) -> Iterator[None]:
    """Convert the exceptions of pyarrow for damaged files into errors of this project.

    Args:
        name: the name of the file, for the message.
        advice: what the user should do, for the message.

    Raises:
        DamagedError: the file is damaged.
        RunError: this process has too little memory for the file.
    """
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged ({error.message}); {advice}") from error
    except SpermsegError:
        raise
    except MemoryError as error:  # a limit of this process, not damage of the file
        raise RunError(f"{name} could not be read: this process has too little memory left") from error
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged ({first_line(error)}); {advice}") from error


def encode_parquet(table: pa.Table) -> bytes:
    """Return a table as one sealed Parquet file, with a checksum for each page.

    The file has no column statistics. They would put names of uploads into the directory, and the directory must not
    hold text of strangers.
    """
    file = io.BytesIO()
    with sealed_writer(file, table.schema) as writer:
        writer.write_table(table)
    return seal_parquet(file.getvalue())


@contextmanager
def sealed_writer(file: Any, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a Parquet file to write. Pass its bytes to `seal_parquet` afterwards."""
    options = {"compression": "zstd", "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(file, schema, use_dictionary=False, **options) as writer:
        yield writer
        writer.add_key_value_metadata({_SEAL: BLANK})


def seal_parquet(data: bytes) -> bytes:
    """Return the bytes of a file of `sealed_writer` with the seal."""
    return seal(data, _MARK)


def check_seal(data: bytes) -> str:
    """Verify the seal of a file and return the seal; return "" for an earlier version without seals.

    Raises:
        DamagedError: the bytes are not those that were written.
    """
    return read_seal(data, _MARK)


def open_parquet(file: BinaryIO, types: Mapping[str, pa.DataType], newest: int) -> pq.ParquetFile:
    """Open a Parquet file and check the types of its columns. Read only columns that are in `types`.

    Args:
        file: the file object, seekable.
        types: name -> expected type. Columns that the file lacks are not reported.
        newest: the latest schema version that this code can read.

    Raises:
        DamagedError: the file is no Parquet file, names an extension type, has a column of another type, or lacks the
            seal of its schema version.
        RunError: the file has a later schema version.
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
    """Open a Parquet file whose directory `open_parquet` has checked, to read its values.

    `pre_buffer` is off. Arrow's prefetch threads release Python objects when they finish, and abort the process
    (SIGABRT) if the interpreter has ended by then.
    """
    return pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True, pre_buffer=False)


def said_seal(file: pq.ParquetFile) -> str:
    """Return the seal that the metadata of a file holds, without verification; "" if there is none."""
    return str((file.metadata.metadata or {}).get(_SEAL.encode(), b"").decode("ascii", "replace"))


def said_metadata(file: pq.ParquetFile) -> dict[str, str]:
    """Return the metadata of a file, without its schema version and its seal."""
    stored: dict[bytes, bytes] = file.metadata.metadata or {}
    ours = (_SEAL, VERSION, "ARROW:schema")
    return {key.decode(): value.decode() for key, value in stored.items() if key.decode() not in ours}


def check_version(version: int, newest: int) -> None:
    """Check that the schema version of a file is known.

    Raises:
        RunError: the version is later than `newest`.
    """
    if version > newest:
        raise RunError(f"a file of the table is of version {version}, and this spermseg knows {newest}: update it")


def _version(said: Mapping[bytes, bytes]) -> int:
    text = said.get(VERSION.encode(), b"0")
    return int(text) if text.isdigit() else 0


def _directory(file: BinaryIO) -> bytes:
    """Return the directory of a file, with the final eight bytes (length and magic)."""
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
