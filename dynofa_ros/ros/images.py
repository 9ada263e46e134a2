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

from dynofa_ros.datasets.reader import incomplete  # noqa: E402
from dynofa_ros.errors import one_line  # noqa: E402

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
    table["8UC1"] = ("mono8", 1, 1)
    for code, encoding in {"C3": "bgr8", "C4": "bgra8"}.items():
        table["8U" + code] = (encoding, int(code[1]), 1)
        table["16U" + code] = (encoding, int(code[1]), 2)
    table |= dict.fromkeys(("yuv422", "uyvy"), ("yuv422", 2, 1))
    table |= dict.fromkeys(("yuv422_yuy2", "yuyv"), ("yuv422_yuy2", 2, 1))
    return table


_PACKED = _packed_encodings()
_PLANAR_ROWS = {"nv12": 1.5, "nv21": 1.5, "nv24": 3.0}  # rows of data per row of the image
SUPPORTED_ENCODINGS = (*_PACKED, *_PLANAR_ROWS)
DEPTH_ENCODINGS = ("16UC1", "16SC1", "32SC1", "32FC1", "64FC1")
"""Drivers publish distances under these (REP 118: 16UC1 in millimetres, 32FC1 in metres)."""
SAMPLE_BITS = (8, 10, 12, 14, 16)
"""Depths of the sensors that are delivered in 16-bit samples."""


class ImageDecoder:
    """Decodes the images of one camera, and learns how many bits of its 16-bit samples are in use.

    No message of sensor_msgs says so: 10-bit and 12-bit sensors often fill the low bits of mono16, rgb16 or
    bayer16. ``significant_bits`` 0 = the fewest of ``SAMPLE_BITS`` that hold every sample seen so far.
    """

    def __init__(self, significant_bits: int = 0) -> None:
        if significant_bits and significant_bits not in SAMPLE_BITS:
            known = ", ".join(map(str, SAMPLE_BITS))
            raise ValueError(f"significant_bits must be 0 or one of {known}, not {significant_bits}")
        self.significant_bits = significant_bits
        self._largest = 0

    def decode(self, message: Any, converter: Converter | None = None) -> Pixels:
        """As the function ``decode``, with the bits of this camera."""
        return decode(message, converter, self._bits)

    def _bits(self, samples: npt.NDArray[np.uint16]) -> int:
        if self.significant_bits:
            return self.significant_bits
        self._largest = max(self._largest, int(samples.max(initial=0)))
        return next(bits for bits in SAMPLE_BITS if self._largest < 1 << bits)


def decode(
    message: Any,
    converter: Converter | None = None,
    bits_of: Callable[[npt.NDArray[np.uint16]], int] = lambda samples: 16,
) -> Pixels:
    """Pixels of a sensor_msgs/Image or CompressedImage: BGR, uint8, H x W x 3, contiguous.

    Of 16-bit samples the high 8 of the bits in use are taken; ``bits_of`` says how many of them are (all by
    default). A bgr8 image without padding is returned as a view of the message's data. converter: for tests;
    default is cv_bridge where it works, rosbags-image elsewhere.

    Raises MalformedImage, and ImportError where neither library works.
    """
    if hasattr(message, "format"):
        return _decode_compressed(message, converter, bits_of)
    encoding = message.encoding
    width, height = int(message.width), int(message.height)
    _refuse_depth(encoding)
    if encoding not in SUPPORTED_ENCODINGS:
        raise MalformedImage(f"encoding {encoding[:40]!r} is not one of {', '.join(SUPPORTED_ENCODINGS)}")
    if width < 1 or height < 1:
        raise MalformedImage(f"image of {width} x {height} pixels: width and height must be at least 1")
    if width * height > MAX_PIXELS:
        raise MalformedImage(f"image of {width} x {height} pixels: at most {MAX_PIXELS} are accepted")
    if encoding in _PLANAR_ROWS:
        return _decode_planar(message)
    return _decode_packed(message, converter, bits_of)


def _refuse_depth(encoding: str) -> None:
    if encoding.strip().upper() in DEPTH_ENCODINGS:
        raise MalformedImage(
            f"{encoding} is the encoding of depth images, which are no pictures: subscribe to the colour or "
            "infrared image (mono16 for 16-bit gray)"
        )


def _decode_packed(
    message: Any, converter: Converter | None, bits_of: Callable[[npt.NDArray[np.uint16]], int]
) -> Pixels:
    encoding, width, height = message.encoding, int(message.width), int(message.height)
    encoding8, samples, sample_bytes = _PACKED[encoding]
    if encoding8.startswith("yuv422") and width % 2:
        raise MalformedImage(f"{encoding} image of width {width}: the width must be even")
    if encoding8.startswith("bayer") and min(width, height) < 3:
        raise MalformedImage(f"{encoding} image of {width} x {height} pixels: it must be at least 3 x 3")
    row_bytes = width * samples * sample_bytes
    rows = _rows(message, row_bytes, row_count=height)[:, :row_bytes]
    if sample_bytes == 2:
        order = ">u2" if message.is_bigendian else "<u2"
        rows = _to_8_bits(np.ascontiguousarray(rows).view(order), bits_of)
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


def _to_8_bits(samples: npt.NDArray[np.uint16], bits_of: Callable[..., int]) -> Pixels:
    return (samples >> (bits_of(samples) - 8)).clip(max=255).astype(np.uint8)


def _decode_compressed(message: Any, converter: Converter | None, bits_of: Callable[..., int]) -> Pixels:
    """``format`` is read as image_transport writes it: `bayer_rggb8; jpeg compressed ` is a JPEG of the raw
    mosaic, `rgb8; jpeg compressed bgr8` one of colours."""
    data = _bytes(message.data)
    source, _, codec = message.format.partition(";")
    source = source.strip().lower()
    _refuse_depth(source)
    if "compresseddepth" in message.format.lower():
        raise MalformedImage("compressedDepth images are no pictures: subscribe to the colour image")
    reason = incomplete(data.tobytes()) if len(data) else None
    # A single channel of a Bayer camera is its mosaic, unless the sender says that it is gray.
    bayer = source.startswith("bayer") and "mono" not in codec
    colours = cv2.IMREAD_ANYCOLOR if bayer else cv2.IMREAD_COLOR
    pixels: Any = None
    if len(data) and reason is None:
        try:
            pixels = cv2.imdecode(data, colours | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise MalformedImage(
            f"compressed image of format {message.format[:40]!r} with {len(data)} bytes cannot be decoded"
            f"{f' ({reason})' if reason else ''}: it must be a whole JPEG, PNG or other file of OpenCV's"
        )
    if pixels.dtype == np.uint16:
        pixels = _to_8_bits(pixels, bits_of)
    if pixels.dtype != np.uint8:
        raise MalformedImage(f"compressed image with {pixels.dtype} samples: it must have 8 or 16 bits each")
    if pixels.ndim == 2:
        if source not in _PACKED or min(pixels.shape) < 3:
            raise MalformedImage(f"compressed image of format {message.format[:40]!r}: unknown Bayer pattern")
        pixels = _convert(converter or default_converter(), pixels, _PACKED[source][0])
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
        reason = one_line(error)
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
