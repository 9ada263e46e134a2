"""rosbag2 files without a ROS distribution: message types, opening, one-line errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dynofa_ros.paths import PACKAGE, share_file


class BagError(ValueError):
    """A bag cannot be read; the text is one line that names the bag and the reason."""


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """The standard ROS 2 messages and those of this package, from its installed .msg files."""
    store = get_typestore(Stores.LATEST)
    own = {}
    for path in sorted(share_file("msg").glob("*.msg")):
        own.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(own)
    return store


def find_bag(path: Path) -> Path:
    """The bag that a user means by `path`: a bag folder, a storage file, or a folder that holds `bag/`.

    A bag whose recorder was killed has no metadata.yaml; its storage file is returned instead.
    Raises BagError if there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise BagError(f"{path} does not exist")
    for folder in (path, path / "bag"):
        if (folder / "metadata.yaml").is_file():
            return folder
        files = sorted([*folder.glob("*.mcap"), *folder.glob("*.db3")])
        if len(files) == 1:
            return files[0]
        if files:
            raise BagError(f"{folder} has several storage files and no metadata.yaml; name one of them")
    raise BagError(f"{path} is not a rosbag2: no metadata.yaml, .mcap or .db3 in it")


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """An open reader of a rosbag2 (sqlite3 or mcap). Types come from the bag, or from `typestore()`.

    Raises BagError if the bag is missing, damaged or of another format.
    """
    bag = find_bag(path)
    try:
        reader = AnyReader([bag], default_typestore=typestore())
        reader.open()
    except (AnyReaderError, OSError, AssertionError, ValueError, KeyError, TypeError) as error:
        raise BagError(f"cannot read {bag}: {_one_line(error)}") from error
    try:
        yield reader
    except (AnyReaderError, ReaderError) as error:
        raise BagError(f"cannot read {bag}: {_one_line(error)}") from error
    finally:
        reader.close()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
