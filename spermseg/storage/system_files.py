"""Files that an operating system or a disk station puts beside pictures: nobody uploaded them, and they show nothing.

They are told by their names alone, everywhere alike. `._name` is what macOS keeps of `name` where a disk cannot, in the
AppleDouble format (RFC 1740); to look into each for its first bytes would cost a request a picture on S3.
"""

SYSTEM_FILES = "operating-system files"
"""What is passed over, in the words of a receipt."""
FOLDERS = frozenset(
    (
        *("__macosx", ".appledouble", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".trashes"),
        *("$recycle.bin", "system volume information", "@eadir"),
    )
)
FILES = frozenset((".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"))
APPLE_DOUBLE = "._"


def is_system_file(path: str) -> bool:
    """Whether a path, with `/` between its parts, names a file that an operating system made.

    >>> is_system_file("__MACOSX/ada/._1.jpg"), is_system_file("ada/Thumbs.db"), is_system_file("ada/1.jpg")
    (True, True, False)
    """
    *folders, name = path.lower().rstrip("/").split("/")
    return name in FILES or name.startswith(APPLE_DOUBLE) or not FOLDERS.isdisjoint([*folders, name])
