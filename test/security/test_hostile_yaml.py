"""YAML made to harm who reads it: each ends in one line, within 1 GB, and nothing elsewhere is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
from confined import confined, refused

from dynofa_ros.device.board import load_board, load_power_model
from dynofa_ros.device.virtual.tree import load_tree
from dynofa_ros.library.latency_table import load_latency_table
from dynofa_ros.library.library import load_library
from dynofa_ros.supernet.zoo import load_list

YAML_READERS = (load_board, load_power_model, load_library, load_latency_table, load_tree, load_list)
DOCUMENTS = hostile.yaml_documents()
SPECIAL = ("directory", "fifo", "circle of links", "endless", "random", "100 GB of holes", "missing")


@pytest.mark.parametrize("reader", YAML_READERS, ids=lambda r: r.__name__)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_yaml(reader: Callable[..., Any], name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(DOCUMENTS[name])
    outcome = confined(reader, str(path) if reader is load_tree else path)
    refused(outcome, path)
    assert outcome.seconds < 10


@pytest.mark.parametrize("reader", YAML_READERS, ids=lambda r: r.__name__)
@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_file(reader: Callable[..., Any], name: str, tmp_path: Path) -> None:
    path = hostile.special_files(tmp_path / "special")[name]
    link = tmp_path / "file.yaml"
    link.symlink_to(path)
    refused(confined(reader, str(link) if reader is load_tree else link), link)
