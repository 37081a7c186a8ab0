"""Listing a large bucket: many requests at once, in the order of the keys, and answers that are read quickly.

A listing is a chain in which each page names the next, so a million keys are a thousand answers to wait for, one after
the other. Folders cut it: what lies between two of them is a chain of its own, and chains can be read at once. Which
folders there are is not known beforehand, and asking costs requests. So a listing begins as plain pages. One that goes
on asks for the folders that follow (`Delimiter`), and reads as many of them in a chain as fill some pages, for folders
of few files would otherwise cost a request each. A chain that turns out long is cut again, and where there are no
folders it stays plain pages.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from botocore.parsers import ResponseParserError

from spermseg.errors import StorageError
from spermseg.storage.prefetch import Part, search

Entry = tuple[str, int, str]
"""(key, size in bytes, etag)"""

REQUESTS = 8
"""Requests under way at once."""
PAGES_AHEAD = 48
"""Pages that may lie ready, of 1,000 keys and a third of a megabyte each."""
FOLDER_KEYS = 4
"""Keys that folders have on average at least: to ask for folders of fewer costs about as much as to list them."""
PLAIN_PAGES = 4
"""Pages after which a chain asks for the folders that follow."""
CHAIN_PAGES = 8
"""Pages that a chain of several folders is meant to have; with twice as many it is cut again."""
BEFORE_SLASH = chr(ord("/") - 1)


@dataclass(kw_only=True)
class _Pace:
    """How many folders are read in one chain: more after few pages, fewer after many. Threads share it."""

    width: int

    def learn(self, folders: int, pages: int) -> None:
        """Take note of how many pages some folders have, or have so far."""
        if 2 * pages <= CHAIN_PAGES:
            self.width = max(self.width, 2 * folders)
        elif pages >= 2 * CHAIN_PAGES:
            self.width = max(1, min(self.width, folders // 2))


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """Keys that are listed one page after the other: all below a prefix, or some neighbouring folders there."""

    prefix: str
    after: str = ""
    """The last key that is known already; empty where none is."""
    folders: tuple[str | Entry, ...] = ()
    """The neighbouring folders, and the files between them; none where it is all below the prefix."""
    token: str | None = None
    """What the last page called the next."""
    pages: int = 0
    """Read so far."""
    pace: _Pace | None = None
    """What is told how long this was; nothing where it is no part of a longer listing."""
    width: int = 1
    """Folders that this was meant to read."""

    def begins_before(self, key: str) -> bool:
        """Whether a key that comes after `after` is not one that lies before the first folder."""
        return not self.folders or key >= str(self.folders[0])

    def holds(self, key: str) -> bool:
        """Whether a key below the prefix that comes after `after` is part of this."""
        return not self.folders or key <= (last := str(self.folders[-1])) or key.startswith(last)


@dataclass(frozen=True, kw_only=True)
class KeyListing:
    """All keys below a prefix."""

    page: Callable[..., dict[str, Any]]
    """Returns one answer of boto3, seen to be whole, for `Prefix`, `StartAfter`, `Delimiter` and `ContinuationToken`.
    Each may be absent but the first."""
    uri: str
    """What is listed, for a message."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the keys in their order, without the empty objects that stand for folders.

        Raises:
            StorageError: the answers are not in the order of the keys; and what `page` raises.
        """
        first = partial(self._read, _Chain(prefix=prefix))
        return chain.from_iterable(search(first, threads=REQUESTS, ahead=PAGES_AHEAD))

    def _read(self, keys: _Chain) -> list[Part]:
        """Read the next page of a chain."""
        where = {"ContinuationToken": keys.token} if keys.token else {"StartAfter": keys.after} if keys.after else {}
        answer = self.page(Prefix=keys.prefix, **where)
        listed = answer.get("Contents", [])
        self._check_order(keys.after, listed)
        listed = [item for item in listed if keys.begins_before(item["Key"])]
        there = [item for item in listed if keys.holds(item["Key"])]
        if len(there) < len(listed) or not answer["IsTruncated"]:
            if keys.pace:
                keys.pace.learn(keys.width, keys.pages + 1)
            return [_files(there)]
        last = listed[-1]["Key"] if listed else keys.after
        rest = replace(keys, after=last, token=answer["NextContinuationToken"], pages=keys.pages + 1)
        return [_files(there), *self._rest(rest, listed)]

    def _rest(self, keys: _Chain, listed: list[dict[str, Any]]) -> list[Part]:
        """Return the parts of a chain that has more pages than were read, of which this is the last."""
        if keys.folders and keys.pace:
            if keys.pages < 2 * CHAIN_PAGES:
                return [partial(self._read, keys)]
            keys.pace.learn(keys.width, keys.pages)
            left = [one for one in keys.folders if _follows(one, keys.after)]
            if not isinstance(left[0], str):  # the page ended at a file, so no folder is listed in part
                return [partial(self._read_some, keys.prefix, keys.after, left, keys.pace)]
            now = _folders(keys.prefix, keys.after, left[:1], keys.pace)
            return [partial(self._read, now), partial(self._read_some, keys.prefix, keys.after, left[1:], keys.pace)]
        below = {_child(keys.prefix, item["Key"]) for item in listed if "/" in item["Key"][len(keys.prefix) :]}
        if keys.pages % PLAIN_PAGES or not below or FOLDER_KEYS * len(below) > len(listed):
            return [partial(self._read, keys)]
        pace = _Pace(width=CHAIN_PAGES * len(below) if len(below) > 1 else 1)
        return [partial(self._read_folders, keys.prefix, keys.after, pace, None)]

    def _read_folders(self, prefix: str, after: str, pace: _Pace, token: str | None) -> list[Part]:
        """Read a page of the folders and files directly below a prefix, from where its keys are not known yet.

        Args:
            prefix: what is listed.
            after: the last key that is known already.
            pace: for these folders.
            token: what the last page called the next.
        """
        # To start inside a folder means another thing on another server; its name without the slash lies before it.
        where = {"ContinuationToken": token} if token else {"StartAfter": _child(prefix, after)}
        answer = self.page(Prefix=prefix, Delimiter="/", **where)
        self._check_order("", answer.get("Contents", []))
        folders = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        found = sorted([*folders, *_files(answer.get("Contents", []))], key=_name)
        some = partial(self._read_some, prefix, after, [one for one in found if _follows(one, after)], pace)
        if answer["IsTruncated"]:
            return [some, partial(self._read_folders, prefix, after, pace, answer["NextContinuationToken"])]
        return [some]

    def _read_some(self, prefix: str, after: str, found: list[str | Entry], pace: _Pace) -> list[Part]:
        """Return what is directly below a prefix as a first chain of folders, the files around it, and the rest."""
        places = [place for place, one in enumerate(found) if isinstance(one, str)][: pace.width]
        if not places:
            return [found]
        first, end = places[0], places[-1] + 1
        keys = _folders(prefix, after, found[first:end], pace)
        return [found[:first], partial(self._read, keys), partial(self._read_some, prefix, after, found[end:], pace)]

    def _check_order(self, after: str, listed: list[dict[str, Any]]) -> None:
        keys = [after, *(item["Key"] for item in listed)]
        if any(map(str.__ge__, keys, keys[1:])):
            raise StorageError(
                f"{self.uri}: the server does not list in the order of the keys, as S3 does, but needs to"
            )


def _folders(prefix: str, after: str, found: list[str | Entry], pace: _Pace) -> _Chain:
    """Return the chain that reads some neighbouring folders, of which the first may be known in part."""
    first = str(found[0])
    inside = after if after.startswith(first) else ""
    if len(found) == 1:
        return _Chain(prefix=first, after=inside, pace=pace)
    width = sum(isinstance(one, str) for one in found)
    # The folder itself may be an object that holds bytes, and a listing starts after a key: so after what lies before.
    before = f"{first[:-1]}{BEFORE_SLASH}\U0010ffff"
    return _Chain(prefix=prefix, after=inside or before, folders=tuple(found), pace=pace, width=width)


def _child(prefix: str, key: str) -> str:
    """Return the folder or file directly below a prefix that leads to a key; without a slash at the end."""
    return prefix + key[len(prefix) :].partition("/")[0]


def _name(one: str | Entry) -> str:
    return one if isinstance(one, str) else one[0]


def _follows(one: str | Entry, after: str) -> bool:
    """Whether a file, or something in a folder, may come after a key."""
    return _name(one) > after or (isinstance(one, str) and after.startswith(one))


def _files(listed: list[dict[str, Any]]) -> list[Entry]:
    return [(item["Key"], item["Size"], item["ETag"].strip('"')) for item in listed if not _is_folder(item)]


def _is_folder(item: dict[str, Any]) -> bool:
    """Whether an object only stands for a folder, as the tools of AWS make them: one that holds bytes is an upload."""
    return bool(item["Key"].endswith("/") and not item["Size"])


def read_quickly(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take the entries out of an answer before botocore parses it: that takes it five times as long, or more.

    To be registered for `before-parse.s3.ListObjectsV2`. What is not as expected is left to botocore.
    """
    try:
        root = ET.fromstring(response_dict["body"])  # noqa: S314 (botocore parses it in the same way)
    except ET.ParseError:
        return
    space = root.tag.removesuffix("ListBucketResult")
    listed = root.findall(f"{space}Contents")
    if space == root.tag or not listed:
        return
    names = [f"{space}{name}" for name in ("Key", "Size", "ETag")]
    told = [[item.findtext(name) for name in names] for item in listed]
    if any(text is None for texts in told for text in texts):
        raise ResponseParserError("a listing that leaves something out")
    for item in listed:
        root.remove(item)
    response_dict["body"] = ET.tostring(root)
    customized_response_dict["Contents"] = [
        {"Key": key, "Size": _number(size), "ETag": etag} for key, size, etag in told
    ]


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError as error:
        raise ResponseParserError("a listing with a size that is no number") from error
