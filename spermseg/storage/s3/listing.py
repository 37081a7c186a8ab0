"""Listing of a large bucket: concurrent requests, keys in order, and fast parsing of the answers.

`ListObjectsV2` returns up to 1,000 keys a page, and each page holds the token of the next page. The pages of one prefix
are therefore a chain: a million keys are a thousand requests, one after the other. Different folders can be listed by
different chains at the same time. But the folders are not known in advance, and to request their names
(`Delimiter="/"`) costs pages too. So a listing works like this:

1. It starts as one chain of plain pages.
2. Every `PLAIN_PAGES` pages it looks at the last page. If that page has folders of at least `FOLDER_KEYS` keys on
   average, it requests the names of the folders that follow, and lists these folders with chains of their own.
3. One chain reads several neighbouring folders, as many as fill about `CHAIN_PAGES` pages. One chain for each folder
   would cost one request for each small folder.
4. A chain that reaches twice `CHAIN_PAGES` pages is split again.

A bucket without folders stays one chain. `storage.prefetch.search` runs the requests in threads and keeps the order of
the keys.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html.
"""

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from botocore.parsers import ResponseParserError

from spermseg.errors import StorageError
from spermseg.storage.prefetch import Part, search

Entry = tuple[str, int, str]
"""A file: (key, size in bytes, etag)."""
Child = str | Entry
"""What lies directly below a prefix: a folder, as its prefix with the slash at the end, or a file."""

REQUESTS = 8
"""Concurrent requests."""
PAGES_AHEAD = 48
"""Pages that may be buffered. Each has 1,000 keys and takes a third of a megabyte."""
FOLDER_KEYS = 4
"""Least mean number of keys in a folder for which the names of folders are requested. To request the names of smaller
folders costs about as much as to list their keys."""
PLAIN_PAGES = 4
"""Number of pages after which a plain chain requests the names of the folders that follow."""
CHAIN_PAGES = 8
"""Intended number of pages of a chain of several folders. A chain of twice as many pages is split."""
BEFORE_SLASH = chr(ord("/") - 1)


@dataclass(kw_only=True)
class _FoldersPerChain:
    """How many neighbouring folders one chain reads. Chains adjust the number; threads share it."""

    count: int

    def adjust(self, folders: int, pages: int) -> None:
        """Double or halve the number after a chain has read `pages` pages for `folders` folders."""
        if 2 * pages <= CHAIN_PAGES:
            self.count = max(self.count, 2 * folders)
        elif pages >= 2 * CHAIN_PAGES:
            self.count = max(1, min(self.count, folders // 2))


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """A range of keys that is listed page by page: all keys below a prefix, or those of some neighbouring folders."""

    prefix: str
    after: str = ""
    """The last key that was listed before; empty at the start."""
    children: tuple[Child, ...] = ()
    """The neighbouring folders and the files between them. The first and the last one are folders. Empty where the
    chain lists the whole prefix."""
    token: str | None = None
    """The continuation token of the last page."""
    pages: int = 0
    """Number of pages that were read."""
    sizing: _FoldersPerChain | None = None
    """The number that this chain adjusts; None for the chain of the whole listing."""
    n_folders: int = 1
    """Number of folders in the chain."""

    def has_begun(self, key: str) -> bool:
        """Whether a key lies in or behind the first folder."""
        return not self.children or key >= _name(self.children[0])

    def has_ended(self, key: str) -> bool:
        """Whether a key lies behind the last folder."""
        if not self.children:
            return False
        last = _name(self.children[-1])
        return key > last and not key.startswith(last)

    def remaining(self) -> list[Child]:
        """Return the children that may have keys after the last listed one. The first may be listed in part."""
        return [child for child in self.children if _ends_after(child, self.after)]


@dataclass(frozen=True, kw_only=True)
class KeyListing:
    """All keys below a prefix."""

    page: Callable[..., dict[str, Any]]
    """Returns one complete answer of boto3's `list_objects_v2`. Takes `Prefix` and, optionally, `StartAfter`,
    `Delimiter` and `ContinuationToken`."""
    uri: str
    """The listed place, for error messages."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the files in the order of their keys, without the empty objects that stand for folders.

        Raises:
            StorageError: the server does not return the keys in order; also what `page` raises.
        """
        first = partial(self._list_page, _Chain(prefix=prefix))
        return itertools.chain.from_iterable(search(first, threads=REQUESTS, ahead=PAGES_AHEAD))

    # `_list_page`, `_list_names` and `_list_children` are the steps of the search. A step returns, in the order of the
    # keys, lists of files and further steps (functions without arguments).

    def _list_page(self, chain: _Chain) -> list[Part]:
        """Request the next page of a chain. Return its files and the steps for the rest of the chain."""
        start: dict[str, str] = {}
        if chain.token:
            start = {"ContinuationToken": chain.token}
        elif chain.after:
            start = {"StartAfter": chain.after}
        answer = self.page(Prefix=chain.prefix, **start)
        listed = answer.get("Contents", [])
        self._check_order(chain.after, listed)
        listed = [item for item in listed if chain.has_begun(item["Key"])]
        inside = [item for item in listed if not chain.has_ended(item["Key"])]
        if len(inside) < len(listed) or not answer["IsTruncated"]:
            if chain.sizing:
                chain.sizing.adjust(chain.n_folders, chain.pages + 1)
            return [_files(inside)]
        after = listed[-1]["Key"] if listed else chain.after
        rest = replace(chain, after=after, token=answer["NextContinuationToken"], pages=chain.pages + 1)
        is_several = rest.children and rest.sizing
        return [_files(inside), *(self._continue_folders(rest) if is_several else self._continue_plain(rest, listed))]

    def _continue_folders(self, chain: _Chain) -> list[Part]:
        """Return the steps for the rest of a chain of several folders. Split the chain if it has become long."""
        if chain.sizing is None or chain.pages < 2 * CHAIN_PAGES:
            return [partial(self._list_page, chain)]
        chain.sizing.adjust(chain.n_folders, chain.pages)
        remaining = chain.remaining()
        first, *others = remaining
        if not isinstance(first, str):  # the page ended at a file, so no folder is listed in part
            return [partial(self._list_children, chain.prefix, chain.after, remaining, chain.sizing)]
        return [
            partial(self._list_page, _folder_chain(chain.prefix, chain.after, [first], chain.sizing)),
            partial(self._list_children, chain.prefix, chain.after, others, chain.sizing),
        ]

    def _continue_plain(self, chain: _Chain, listed: Sequence[dict[str, Any]]) -> list[Part]:
        """Return the step for the rest of a chain that lists a whole prefix: its next page, or its folders' names.

        Args:
            chain: the rest.
            listed: the keys of its last page.
        """
        folders = {_child(chain.prefix, item["Key"]) for item in listed if "/" in item["Key"][len(chain.prefix) :]}
        if chain.pages % PLAIN_PAGES or not folders or FOLDER_KEYS * len(folders) > len(listed):
            return [partial(self._list_page, chain)]
        sizing = _FoldersPerChain(count=CHAIN_PAGES * len(folders) if len(folders) > 1 else 1)
        return [partial(self._list_names, chain.prefix, chain.after, sizing, None)]

    def _list_names(self, prefix: str, after: str, sizing: _FoldersPerChain, token: str | None) -> list[Part]:
        """Request a page of the folders and files directly below a prefix. Return the steps that list them.

        Args:
            prefix: the listed prefix.
            after: the last key that was listed before.
            sizing: for the chains of these folders.
            token: the continuation token of the last page of names; None at the first page.
        """
        # Servers disagree about a `StartAfter` inside a folder. The folder's name without the slash sorts before it.
        start = {"ContinuationToken": token} if token else {"StartAfter": _child(prefix, after)}
        answer = self.page(Prefix=prefix, Delimiter="/", **start)
        files = answer.get("Contents", [])
        self._check_order("", files)
        folders = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        found: list[Child] = sorted([*folders, *_files(files)], key=_name)
        children = [child for child in found if _ends_after(child, after)]
        steps: list[Part] = [partial(self._list_children, prefix, after, children, sizing)]
        if answer["IsTruncated"]:
            steps.append(partial(self._list_names, prefix, after, sizing, answer["NextContinuationToken"]))
        return steps

    def _list_children(
        self, prefix: str, after: str, children: Sequence[Child], sizing: _FoldersPerChain
    ) -> list[Part]:
        """Return the files before the first folder, a chain of the first folders, and the step for the rest."""
        places = [place for place, child in enumerate(children) if isinstance(child, str)][: sizing.count]
        if not places:
            return [list(children)]
        first, end = places[0], places[-1] + 1
        chain = _folder_chain(prefix, after, children[first:end], sizing)
        rest = partial(self._list_children, prefix, after, children[end:], sizing)
        return [list(children[:first]), partial(self._list_page, chain), rest]

    def _check_order(self, after: str, listed: Sequence[dict[str, Any]]) -> None:
        keys = [after, *(item["Key"] for item in listed)]
        if any(before >= key for before, key in itertools.pairwise(keys)):
            raise StorageError(f"{self.uri}: the server lists keys out of order; S3 lists them in order")


def _folder_chain(prefix: str, after: str, children: Sequence[Child], sizing: _FoldersPerChain) -> _Chain:
    """Return the chain of some neighbouring folders, of which the first may already be listed in part.

    Args:
        prefix: the prefix above the folders.
        after: the last key that was listed before.
        children: the folders and the files between them; the first and the last one are folders.
        sizing: the number that the chain adjusts.
    """
    first = _name(children[0])
    inside = after if after.startswith(first) else ""
    if len(children) == 1:
        return _Chain(prefix=first, after=inside, sizing=sizing)
    before = _just_before(first)
    n_folders = sum(isinstance(child, str) for child in children)
    return _Chain(prefix=prefix, after=inside or before, children=tuple(children), sizing=sizing, n_folders=n_folders)


def _just_before(folder: str) -> str:
    """Return a key that sorts before the key of a folder, and after all keys that do.

    An object with bytes may have the folder's own key, slash included. `StartAfter` excludes the key that it names.
    """
    return f"{folder[:-1]}{BEFORE_SLASH}\U0010ffff"


def _child(prefix: str, key: str) -> str:
    """Return the folder or file directly below a prefix that a key lies in, without a slash at the end."""
    return prefix + key[len(prefix) :].partition("/")[0]


def _name(child: Child) -> str:
    return child if isinstance(child, str) else child[0]


def _ends_after(child: Child, key: str) -> bool:
    """Whether a file comes after a key, or a folder may hold a key that does."""
    return _name(child) > key or (isinstance(child, str) and key.startswith(child))


def _files(listed: list[dict[str, Any]]) -> list[Entry]:
    return [(item["Key"], item["Size"], item["ETag"].strip('"')) for item in listed if not _is_folder(item)]


def _is_folder(item: dict[str, Any]) -> bool:
    """Whether an object is an empty one that stands for a folder, as AWS tools create them."""
    return bool(item["Key"].endswith("/") and not item["Size"])


def read_quickly(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Parse the entries of a listing, and remove them from the answer before botocore parses the rest.

    botocore takes at least five times as long for the entries. Register this function for the event
    `before-parse.s3.ListObjectsV2`. It leaves answers of another form to botocore.

    Raises:
        ResponseParserError: an entry lacks its key, size or etag.
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
    entries = [[item.findtext(name) for name in names] for item in listed]
    if any(text is None for entry in entries for text in entry):
        raise ResponseParserError("a listing that leaves something out")
    for item in listed:
        root.remove(item)
    response_dict["body"] = ET.tostring(root)
    customized_response_dict["Contents"] = [
        {"Key": key, "Size": _number(size), "ETag": etag} for key, size, etag in entries
    ]


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError as error:
        raise ResponseParserError("a listing with a size that is no number") from error
