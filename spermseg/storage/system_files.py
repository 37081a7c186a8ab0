"""Files that an operating system or a network storage device creates beside the uploads, such as `Thumbs.db`.

They are recognised by their names alone, in folders, in buckets and in archives. To read their first bytes would cost
one request for each picture on S3. On a disk without resource forks, macOS keeps those of `name` in `._name`, in the
AppleDouble format (RFC 1740).
"""

SYSTEM_FILES = "operating-system files"
"""The name of this kind in a receipt."""
FOLDERS = frozenset(
    (
        *("__macosx", ".appledouble", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".trashes"),
        *("$recycle.bin", "system volume information", "@eadir"),
    )
)
FILES = frozenset((".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"))
APPLE_DOUBLE = "._"


def is_system_file(path: str) -> bool:
    """Whether a path, with `/` between its parts, names a file that an operating system created.

    >>> is_system_file("__MACOSX/ada/._1.jpg"), is_system_file("ada/Thumbs.db"), is_system_file("ada/1.jpg")
    (True, True, False)
    """
    *folders, name = path.lower().rstrip("/").split("/")
    return name in FILES or name.startswith(APPLE_DOUBLE) or not FOLDERS.isdisjoint([*folders, name])
