"""URIs and file names: complete URIs from user input, valid text from stored names, names of partial files."""

import os
import re
import secrets
from pathlib import Path
from urllib.parse import unquote

from spermseg.credentials import CREDENTIALS_ADVICE, has_user, masked
from spermseg.errors import ConfigError

PARTIAL = ".partial-"
"""First letters of the name of a partial file, which is being written. A killed writer leaves such a file behind."""
EMPTY = "an empty folder"
"""The name of this kind of place in messages."""
_PARTIAL = re.compile(re.escape(PARTIAL) + "[0-9a-f]{16}")


def partial_name() -> str:
    """Return a unique name for a partial file."""
    return PARTIAL + secrets.token_hex(8)


def is_partial_name(name: str) -> bool:
    """Whether `partial_name` made this name."""
    return bool(_PARTIAL.fullmatch(name))


def is_partial(key: str) -> bool:
    """Whether the last part of a key begins like the name of a partial file."""
    return key.rpartition("/")[2].startswith(PARTIAL)


def storable(name: str) -> str:
    r"""Return a name as valid UTF-8 text, for Parquet. Invalid bytes become backslash escapes.

    >>> storable("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    r"""Whether the bytes of a name are UTF-8, in any locale. Only such a name can be stored in Parquet.

    >>> is_utf8("caf\u00e9.jpg"), is_utf8("caf\udce9.jpg"), is_utf8("caf\udcc3\udca9.jpg")
    (True, False, True)
    """
    try:
        name.isascii() or name.encode("utf-8", "surrogateescape").decode()
    except UnicodeDecodeError:
        return False
    return True


def complete(uri: str) -> str:
    """Return a URI as `s3://bucket/prefix` or an absolute path, without a slash at the end.

    Raises:
        ConfigError: the URI has another scheme, is incomplete, or holds credentials.
    """
    scheme, found, rest = uri.partition("://")
    if not uri:
        raise ConfigError("got an empty path; give a folder or s3://bucket/prefix")
    if not found:
        return _absolute(uri)
    if scheme == "s3":
        if has_user(rest.partition("/")[0]):  # keys below may hold any letter
            raise ConfigError(f"got {masked(uri)!r}, a bucket with credentials; {CREDENTIALS_ADVICE}")
        if not rest or rest.startswith("/"):
            raise ConfigError(f"got {uri!r}, which names no bucket; give s3://bucket or s3://bucket/prefix")
        return f"s3://{rest.rstrip('/')}"
    if scheme == "file" and rest.startswith("/"):
        return _absolute(unquote(rest))
    raise ConfigError(f"got {masked(uri)!r}; spermseg reads folders, file:///folder and s3://bucket/prefix")


def _absolute(path: str) -> str:
    try:
        absolute = Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(
            f"got {path!r}, and there is no such user; give ./{path} for a folder of that name"
        ) from error
    return "/" + os.path.normpath(absolute).lstrip("/")
