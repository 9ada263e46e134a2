"""Messages and parameters from anybody on the network: refused or made harmless, in one line."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from confined import confined, refused
from dynofa_ros.msg import DvfsCommand, FrequencyBand, SubnetCommand, SubnetEntry, SubnetLibrary
from rich.console import Console

from dynofa_ros.cli.tables import plain_table, wide_console
from dynofa_ros.convert import MOST_ELEMENTS, from_ros
from dynofa_ros.errors import one_line, printable
from dynofa_ros.ros.images import decode
from dynofa_ros.ros.parameters import ParameterSpec, check

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n\u202e\x9b31m\0"
HUGE = 2**32 - 1


def image(**changes: Any) -> SimpleNamespace:
    fields = {"height": 2, "width": 2, "encoding": "bgr8", "step": 6, "is_bigendian": 0, "data": bytes(12)}
    return SimpleNamespace(**{**fields, **changes})


def compressed(data: bytes, format: str = "png") -> SimpleNamespace:
    return SimpleNamespace(format=format, data=data)


def png(width: int, height: int) -> bytes:
    """A whole PNG of one pixel that says another size."""
    data = bytearray(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


IMAGES = {
    "2**32 x 2**32": image(height=HUGE, width=HUGE, step=HUGE),
    "height x step overflows": image(height=2**31, width=2, step=2**31),
    "height x step is the size modulo 2**32": image(height=2**16, width=2, step=2**16 + 6),
    "rows of nothing": image(height=HUGE, width=1, step=0, data=b""),
    "no rows": image(height=0, width=HUGE, step=HUGE, data=b""),
    "a step of one row too few": image(step=5),
    "more data": image(data=bytes(13)),
    "no data": image(data=b""),
    "unknown encoding": image(encoding=ESCAPES),
    "encoding of 1 MB": image(encoding="x" * 1_000_000),
    "encoding with a path": image(encoding="../../outside/owned"),
    "float depth": image(encoding="32FC1"),
    "odd nv12": image(encoding="nv12", width=3, height=3, step=3),
    "thin Bayer": image(encoding="bayer_rggb8", width=1, height=1, step=1, data=bytes(1)),
    "PNG of 4 billion pixels": compressed(png(65_000, 65_000)),
    "PNG of 2**31 columns": compressed(png(2**31 - 1, 1)),
    "PNG of no columns": compressed(png(0, 0)),
    "PNG that is cut": compressed(png(1, 1)[:40]),
    "chunk of 4 GiB": compressed(b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffIDAT" + bytes(100)),
    "JPEG without an end": compressed(b"\xff\xd8" + bytes(100), "jpeg"),
    "JPEG of markers": compressed(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 100_000, "jpeg"),
    "no image": compressed(b"hello", ESCAPES),
    "SVG": compressed(b"<svg xmlns:x='file:///etc/passwd'/>", "svg"),
    "nothing": compressed(b""),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    outcome = confined(decode, IMAGES[name])
    assert outcome.kind == "MalformedImage"
    refused(outcome)


@pytest.mark.parametrize("count", [MOST_ELEMENTS + 1, 100_000])
@pytest.mark.parametrize("message", [DvfsCommand, SubnetLibrary])
def test_arrays_longer_than_any_message_has(message: type, count: int) -> None:
    made = message()
    if message is DvfsCommand:
        made.bands = [FrequencyBand()] * count
    else:
        made.entries = [SubnetEntry()] * count
    with pytest.raises(ValueError, match=f"{count} elements: at most {MOST_ELEMENTS}") as error:
        from_ros(made)
    assert str(error.value).isprintable()


def test_text_of_a_message_is_printable() -> None:
    command = from_ros(SubnetCommand(subnet_id=ESCAPES))
    assert command.subnet_id.isprintable() and "owned" in command.subnet_id
    assert from_ros(SubnetCommand(subnet_id="d2e3k3 größe")).subnet_id == "d2e3k3 größe"
    library = from_ros(SubnetLibrary(entries=[SubnetEntry(id=ESCAPES)]))
    assert library.entries[0].id.isprintable()


@pytest.mark.parametrize("text", [ESCAPES, "a\nb", "\x7f", "\ud800", "\U000e0041"])
def test_one_line(text: str) -> None:
    for line in (printable(text), one_line(ValueError(text))):
        assert line.isprintable() and line
    assert len(one_line(ValueError("x" * 1_000_000))) < 1100


@pytest.mark.parametrize(
    "name", ["[red]x[/]", "[/foo]", "[link=file:///etc/passwd]x[/link]", ":skull:", "[x"]
)
def test_names_in_tables_are_no_markup(name: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, markup=False, emoji=False)
    console.print(plain_table([name], [[name], ["met"]]))
    assert out.getvalue().count(name) == 2
    console = wide_console()
    with console.capture() as captured:
        console.print(name)
    assert captured.get().strip() == name


VALUES = (
    ESCAPES,
    "x" * 1_000_000,
    2**63,
    -(2**63),
    float("nan"),
    float("inf"),
    -1e300,
    b"x",
    ["x"] * 100_000,
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_parameters(value: object) -> None:
    for spec in (
        ParameterSpec("rate_hz", 1.0, "rate", minimum=0.0, maximum=10.0),
        ParameterSpec("backend", "auto", "kind", choices=("auto", "sysfs")),
        ParameterSpec("top_k", 1, "classes", minimum=1, maximum=9),
        ParameterSpec("paused", False, "answer nothing"),
    ):
        reason = check(spec, value)
        assert reason is not None and reason.isprintable() and len(reason) < 300
