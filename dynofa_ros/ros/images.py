"""Camera messages to pixels: every encoding of sensor_msgs that cameras send, as one BGR image.

The rows are cut out here, as NumPy views, and the libraries only convert colours. Neither can be given
the message itself: rosbags-image ignores `step` and the chroma plane of nv12 and nv21, and cv_bridge
loses the row boundary where `step` is not a multiple of the pixel size and knows no nv12.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_PIXELS = 200_000_000
"""No camera sends more; a larger size is a broken header, or an image made to exhaust the memory."""
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # read when cv2 is imported

import cv2  # noqa: E402

Pixels = npt.NDArray[np.uint8]
Converter = Callable[[Any], npt.NDArray[Any]]
"""An image message with 8-bit samples and without padding to BGR, H x W x 3."""


class MalformedImage(ValueError):
    """The message is no image; the text is one line that says what is wrong and what would be right."""


def _packed_encodings() -> dict[str, tuple[str, int, int]]:
    """Encoding -> (the same with 8 bits per sample, samples per pixel, bytes per sample)."""
    channels = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
    channels |= {f"bayer_{pattern}": 1 for pattern in ("rggb", "bggr", "gbrg", "grbg")}
    table = {name + "8": (name + "8", count, 1) for name, count in channels.items()}
    table |= {name + "16": (name + "8", count, 2) for name, count in channels.items()}
    for code, encoding in {"C1": "mono8", "C3": "bgr8", "C4": "bgra8"}.items():
        table["8U" + code] = (encoding, int(code[1]), 1)
        table["16U" + code] = (encoding, int(code[1]), 2)
    table |= dict.fromkeys(("yuv422", "uyvy"), ("yuv422", 2, 1))
    table |= dict.fromkeys(("yuv422_yuy2", "yuyv"), ("yuv422_yuy2", 2, 1))
    return table


_PACKED = _packed_encodings()
_PLANAR_ROWS = {"nv12": 1.5, "nv21": 1.5, "nv24": 3.0}  # rows of data per row of the image
SUPPORTED_ENCODINGS = (*_PACKED, *_PLANAR_ROWS)


def decode(message: Any, converter: Converter | None = None) -> Pixels:
    """Pixels of a sensor_msgs/Image or CompressedImage: BGR, uint8, H x W x 3, contiguous.

    Of 16-bit samples the high byte is taken, whatever the range in use. A bgr8 image without padding is
    returned as a view of the message's data. converter: for tests; default is cv_bridge where it works,
    rosbags-image elsewhere.

    Raises MalformedImage, and ImportError where neither library works.
    """
    if hasattr(message, "format"):
        return _decode_compressed(message)
    encoding = message.encoding
    width, height = int(message.width), int(message.height)
    if encoding not in SUPPORTED_ENCODINGS:
        raise MalformedImage(f"encoding {encoding[:40]!r} is not one of {', '.join(SUPPORTED_ENCODINGS)}")
    if width < 1 or height < 1:
        raise MalformedImage(f"image of {width} x {height} pixels: width and height must be at least 1")
    if width * height > MAX_PIXELS:
        raise MalformedImage(f"image of {width} x {height} pixels: at most {MAX_PIXELS} are accepted")
    if encoding in _PLANAR_ROWS:
        return _decode_planar(message)
    return _decode_packed(message, converter)


def _decode_packed(message: Any, converter: Converter | None) -> Pixels:
    encoding, width, height = message.encoding, int(message.width), int(message.height)
    encoding8, samples, sample_bytes = _PACKED[encoding]
    if encoding8.startswith("yuv422") and width % 2:
        raise MalformedImage(f"{encoding} image of width {width}: the width must be even")
    if encoding8.startswith("bayer") and min(width, height) < 3:
        raise MalformedImage(f"{encoding} image of {width} x {height} pixels: it must be at least 3 x 3")
    row_bytes = width * samples * sample_bytes
    rows = _rows(message, row_bytes, row_count=height)[:, :row_bytes]
    if sample_bytes == 2:
        rows = rows[:, 0 if message.is_bigendian else 1 :: 2]
    pixels = rows if samples == 1 else rows.reshape(height, width, samples)
    if encoding8 != "bgr8":
        pixels = _convert(converter or default_converter(), pixels, encoding8)
    return np.ascontiguousarray(pixels)


def _decode_planar(message: Any) -> Pixels:
    """nv12 and nv21 (4:2:0), and nv24 (4:4:4), of which every second chroma row and column is taken."""
    encoding, width, height = message.encoding, int(message.width), int(message.height)
    if width % 2 or height % 2:
        raise MalformedImage(f"{encoding} image of {width} x {height} pixels: width and height must be even")
    rows = _rows(message, row_bytes=width, row_count=int(height * _PLANAR_ROWS[encoding]))
    if encoding == "nv24":  # a chroma row fills two rows
        chroma = rows[height:].reshape(height, -1)[::2, : 2 * width].reshape(height // 2, width // 2, 4)
        rows = np.concatenate([rows[:height, :width], chroma[..., :2].reshape(height // 2, width)])
    code = cv2.COLOR_YUV2BGR_NV21 if encoding == "nv21" else cv2.COLOR_YUV2BGR_NV12
    return np.asarray(cv2.cvtColor(rows[:, :width], code), np.uint8)


def _decode_compressed(message: Any) -> Pixels:
    data = _bytes(message.data)
    pixels = None
    if len(data):
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise MalformedImage(
            f"compressed image of format {message.format[:40]!r} with {len(data)} bytes cannot be decoded: "
            "it must be a whole JPEG, PNG or other file that OpenCV reads"
        )
    return np.asarray(pixels, np.uint8)


def _bytes(data: Any) -> Pixels:
    """View of the data field, which is an array.array (rclpy), an ndarray (rosbags), bytes or a list."""
    if isinstance(data, (list, np.ndarray)):
        return np.asarray(data, dtype=np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


def _rows(message: Any, row_bytes: int, row_count: int) -> Pixels:
    """The rows with their padding, as a view: row_count x step."""
    step = int(message.step)
    what = f"{message.width} x {message.height} {message.encoding} image"
    if step < row_bytes:
        raise MalformedImage(f"{what} with a step of {step} bytes: it must be at least {row_bytes}")
    size, right_size = len(message.data), step * row_count
    if size != right_size:
        raise MalformedImage(
            f"{what} with a step of {step} has {size} bytes of data: it must have {right_size}"
        )
    return _bytes(message.data).reshape(row_count, step)


def _convert(converter: Converter, pixels: Pixels, encoding: str) -> Pixels:
    """Through the library, which gets what it handles right: 8 bits per sample, native order, no padding."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    message = SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=sys.byteorder == "big",
        step=pixels.nbytes // height,
        data=pixels,
    )
    try:
        return np.asarray(converter(message), np.uint8)
    except Exception as error:  # each library has its own errors for an image it cannot take
        reason = " ".join(str(error).split())
        raise MalformedImage(f"{width} x {height} {encoding} image cannot be converted: {reason}") from error


@functools.lru_cache(maxsize=1)
def default_converter() -> Converter:
    """cv_bridge where it works, else rosbags-image. Raises ImportError where neither does."""
    try:
        return cv_bridge_converter()
    except ImportError as error:
        try:
            return rosbags_converter()
        except ImportError:
            raise ImportError(f"images need cv_bridge or rosbags-image: {error}") from error


def cv_bridge_converter() -> Converter:
    """Colour conversion of a robot's ROS 2. Raises ImportError if it is absent or built for another NumPy."""
    from cv_bridge import CvBridge

    converter = functools.partial(CvBridge().imgmsg_to_cv2, desired_encoding="bgr8")
    try:
        _convert(converter, np.zeros((2, 2), np.uint8), "mono8")
    except MalformedImage as error:
        raise ImportError(f"cv_bridge does not work: {error}") from error
    return converter


def rosbags_converter() -> Converter:
    """Colour conversion without a ROS distribution. Raises ImportError if rosbags-image is absent."""
    from rosbags.image import image_to_cvimage

    return functools.partial(image_to_cvimage, color_space="bgr8")
