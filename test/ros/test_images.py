"""Camera messages to pixels, through cv_bridge where it is installed and through rosbags-image."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs", reason="needs the ROS message packages")

from sensor_msgs.msg import CompressedImage, Image

from dynofa_ros.ros import images
from dynofa_ros.ros.images import Converter, MalformedImage, decode

COLOUR = ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4", "rgb16", "bgr16", "rgba16", "bgra16", "16UC3")
GRAY = ("mono8", "mono16", "8UC1")
BAYER = tuple(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16))
YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "nv24")


@pytest.fixture(params=["cv_bridge", "rosbags-image"])
def converter(request: pytest.FixtureRequest) -> Converter:
    factories = {"cv_bridge": images.cv_bridge_converter, "rosbags-image": images.rosbags_converter}
    try:
        return factories[request.param]()
    except ImportError as error:
        pytest.skip(f"{request.param} is not here: {error}")


def smooth_picture(width: int, height: int) -> np.ndarray:
    """BGR gradients: neighbours differ so little that subsampled chroma and demosaicing lose nothing."""
    x = np.linspace(0.0, 1.0, width)[None, :]
    y = np.linspace(0.0, 1.0, height)[:, None]
    planes = [60 + 60 * x + 0 * y, 80 + 0 * x + 70 * y, 180 - 50 * x - 30 * y]
    return np.stack([plane.round() for plane in planes], axis=-1).astype(np.uint8)


def yuv_of(bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ITU-R BT.601, limited range."""
    b, g, r = (bgr[..., i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return tuple(plane.round().clip(0, 255).astype(np.uint8) for plane in (y, u, v))


def rows_of(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """The picture in an 8-bit encoding: rows x bytes, written without the code under test."""
    height, width = bgr.shape[:2]
    if encoding in ("mono8", "8UC1"):
        return bgr.astype(float).mean(axis=-1).round().astype(np.uint8)
    if encoding.startswith("bayer"):
        channels = ["bgr".index(letter) for letter in encoding.split("_")[1][:4]]
        rows = np.empty((height, width), np.uint8)
        for i, channel in enumerate(channels):
            rows[i // 2 :: 2, i % 2 :: 2] = bgr[i // 2 :: 2, i % 2 :: 2, channel]
        return rows
    if encoding in YUV:
        y, u, v = yuv_of(bgr)
        if encoding == "nv24":
            return np.concatenate([y, np.stack([u, v], axis=-1).reshape(2 * height, width)])
        if encoding in ("nv12", "nv21"):
            chroma = (u, v) if encoding == "nv12" else (v, u)
            return np.concatenate(
                [y, np.stack([c[::2, ::2] for c in chroma], -1).reshape(height // 2, width)]
            )
        y0, y1, u, v = y[:, ::2], y[:, 1::2], u[:, ::2], v[:, ::2]
        order = (u, y0, v, y1) if encoding in ("yuv422", "uyvy") else (y0, u, y1, v)
        return np.stack(order, axis=-1).reshape(height, 2 * width)
    name = {"8UC3": "bgr", "8UC4": "bgra"}.get(encoding, encoding[:-1])
    opaque = np.dstack([bgr, np.full((height, width), 255, np.uint8)])
    return opaque[..., ["bgra".index(letter) for letter in name]].reshape(height, -1)


def message_of(bgr: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """A message as a camera would send it; padding and low bytes carry noise that must not show."""
    noise = np.random.default_rng(0)
    wide = encoding.endswith("16") or encoding.startswith("16U")
    encoding8 = encoding.replace("16U", "8U") if encoding.startswith("16U") else encoding
    rows = rows_of(bgr, encoding8[:-2] + "8" if encoding8.endswith("16") else encoding8)
    if wide:
        samples = np.stack([rows, noise.integers(0, 256, rows.shape, np.uint8)], axis=-1)
        rows = samples[..., :: 1 if big_endian else -1].reshape(len(rows), -1)
    row_bytes = rows.shape[1]
    if encoding == "nv24":  # the padding of a chroma row follows its two rows
        height, width = bgr.shape[:2]
        data = np.concatenate(
            [
                pad(rows[:height], padding, noise).ravel(),
                pad(rows[height:].reshape(height, -1), 2 * padding, noise).ravel(),
            ]
        )
        row_bytes = width
    else:
        data = pad(rows, padding, noise).ravel()
    message = Image(encoding=encoding, is_bigendian=int(big_endian), step=row_bytes + padding)
    message.height, message.width = bgr.shape[:2]
    message.data = array("B", data.tobytes())
    return message


def pad(rows: np.ndarray, padding: int, noise: np.random.Generator) -> np.ndarray:
    return np.hstack([rows, noise.integers(0, 256, (len(rows), padding), np.uint8)])


def expected(bgr: np.ndarray, encoding: str) -> tuple[np.ndarray, int]:
    """What decoding should give, and how far it may be off."""
    if encoding in GRAY:
        return np.repeat(rows_of(bgr, "mono8")[..., None], 3, axis=-1), 0
    return bgr, 0 if encoding in COLOUR else 6


def assert_decodes(
    bgr: np.ndarray, encoding: str, padding: int, big_endian: bool, converter: Converter | None = None
) -> None:
    pixels = decode(message_of(bgr, encoding, padding, big_endian), converter)
    reference, tolerance = expected(bgr, encoding)
    assert pixels.shape == bgr.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    error = np.abs(pixels.astype(int) - reference)
    assert error.max() <= tolerance, f"{encoding}: off by {error.max()}"


@pytest.mark.parametrize("encoding", [*COLOUR, *GRAY, *BAYER, *YUV])
def test_every_encoding_gives_the_picture(encoding: str, converter: Converter) -> None:
    for padding, big_endian in itertools.product([0, 1, 7, 64], [False, True]):
        assert_decodes(smooth_picture(96, 64), encoding, padding, big_endian, converter)


def test_the_table_of_encodings_is_tested_as_a_whole() -> None:
    assert {*COLOUR, *GRAY, *BAYER, *YUV} | {"16UC4"} == set(images.SUPPORTED_ENCODINGS)


@settings(max_examples=150, deadline=None)
@given(
    encoding=st.sampled_from([*COLOUR, *GRAY]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    padding=st.integers(0, 33),
    big_endian=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_size_and_padding_round_trips_exactly(
    encoding: str, width: int, height: int, padding: int, big_endian: bool, seed: int
) -> None:
    bgr = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert_decodes(bgr, encoding, padding, big_endian)


@settings(max_examples=100, deadline=None)
@given(
    encoding=st.sampled_from([*BAYER, *YUV]),
    width=st.integers(16, 60).map(lambda n: 2 * n),
    height=st.integers(16, 60).map(lambda n: 2 * n),
    padding=st.integers(0, 33),
    big_endian=st.booleans(),
)
def test_any_size_of_a_subsampled_encoding_gives_nearly_the_picture(
    encoding: str, width: int, height: int, padding: int, big_endian: bool
) -> None:
    assert_decodes(smooth_picture(width, height), encoding, padding, big_endian)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.one_of(st.sampled_from(images.SUPPORTED_ENCODINGS), st.text(max_size=60)),
    width=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    height=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    step=st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
    big_endian=st.integers(0, 255),
    data=st.binary(max_size=400),
)
def test_random_messages_raise_nothing_but_malformed_image(
    encoding: str, width: int, height: int, step: int, big_endian: int, data: bytes
) -> None:
    message = Image(encoding=encoding, width=width, height=height, step=step, is_bigendian=big_endian)
    message.data = array("B", data)
    assert_decodes_or_is_malformed(message)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from(images.SUPPORTED_ENCODINGS),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    padding=st.integers(0, 5),
    data=st.data(),
)
def test_random_bytes_of_the_right_size_are_an_image_or_malformed(
    encoding: str, width: int, height: int, padding: int, data: st.DataObject
) -> None:
    step = width * data.draw(st.integers(1, 8)) + padding
    rows = data.draw(st.sampled_from([height, height * 3 // 2, height * 3]))
    message = Image(encoding=encoding, width=width, height=height, step=step)
    message.data = array("B", data.draw(st.binary(min_size=step * rows, max_size=step * rows)))
    assert_decodes_or_is_malformed(message)


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF"]), data=st.binary()
)
def test_random_compressed_bytes_raise_nothing_but_malformed_image(start: bytes, data: bytes) -> None:
    assert_decodes_or_is_malformed(CompressedImage(format="jpeg", data=array("B", start + data)))


def assert_decodes_or_is_malformed(message: Image | CompressedImage) -> None:
    try:
        pixels = decode(message)
    except MalformedImage as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


def spoiled(**fields: object) -> Image:
    message = message_of(smooth_picture(8, 6), "rgb8")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (spoiled(width=0), ["0 x 6", "at least 1"]),
        (spoiled(height=0), ["8 x 0", "at least 1"]),
        (spoiled(width=2**32 - 1, height=2**32 - 1), ["4294967295", "at most"]),
        (spoiled(step=23), ["8 x 6 rgb8", "step of 23", "at least 24"]),
        (spoiled(data=array("B", bytes(143))), ["143 bytes", "must have 144"]),
        (spoiled(data=array("B", bytes(145))), ["145 bytes", "must have 144"]),
        (spoiled(data=array("B")), ["0 bytes", "must have 144"]),
        (spoiled(encoding="rgb9"), ["'rgb9'", "rgb8", "nv12"]),
        (spoiled(encoding="32FC1"), ["32FC1", "depth", "colour"]),
        (spoiled(encoding="16UC1"), ["16UC1", "depth", "mono16"]),
        (spoiled(encoding="yuv422", width=7), ["width 7", "even"]),
        (spoiled(encoding="nv12", height=5), ["8 x 5", "even"]),
        (spoiled(encoding="bayer_rggb8", width=2), ["2 x 6", "at least 3 x 3"]),
    ],
)
def test_a_malformed_image_says_what_is_wrong_and_what_would_be_right(
    message: Image, words: list[str]
) -> None:
    with pytest.raises(MalformedImage) as error:
        decode(message)
    assert all(word in str(error.value) for word in words), str(error.value)


def compressed(extension: str, pixels: np.ndarray) -> CompressedImage:
    data = cv2.imencode(extension, pixels)[1]
    return CompressedImage(format=extension[1:], data=array("B", data.tobytes()))


@pytest.mark.parametrize(("extension", "tolerance"), [(".png", 0), (".jpg", 6)])
def test_compressed_images(extension: str, tolerance: int) -> None:
    bgr = smooth_picture(96, 64)
    pixels = decode(compressed(extension, bgr))
    assert pixels.shape == bgr.shape
    assert np.abs(pixels.astype(int) - bgr).max() <= tolerance


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((8, 8), 200, np.uint8),
        np.full((8, 8), (200 << 8) + 77, np.uint16),
        np.full((8, 8, 4), 200, np.uint8),
    ],
    ids=["gray", "16 bit", "alpha"],
)
def test_compressed_images_of_other_kinds_become_bgr(pixels: np.ndarray) -> None:
    decoded = decode(compressed(".png", pixels))
    assert decoded.shape == (8, 8, 3)
    assert (decoded == 200).all()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_truncated_compressed_image_is_malformed(extension: str, keep: float) -> None:
    message = compressed(extension, smooth_picture(96, 64))
    message.data = message.data[: keep if isinstance(keep, int) else int(keep * len(message.data))]
    with pytest.raises(MalformedImage, match="cannot be decoded"):
        decode(message)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_truncated_image_is_malformed_whatever_opencv_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, extension: str, keep: float
) -> None:
    """OpenCV 4.5 to 4.10 return a picture for most of them (opencv#26488)."""
    picture = smooth_picture(96, 64)
    message = compressed(extension, picture)
    monkeypatch.setattr(images.cv2, "imdecode", lambda data, flags: picture)
    assert decode(message).shape == picture.shape
    message.data = message.data[: int(keep * len(message.data))]
    with pytest.raises(MalformedImage, match="cannot be decoded"):
        decode(message)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_samples_in_the_low_bits_give_the_picture(encoding: str, bits: int) -> None:
    """As drivers of 10-bit and 12-bit sensors send it; nothing in the message says so."""
    bgr = smooth_picture(96, 64)
    bgr[0, 0] = 255
    message = message_of(bgr, encoding)
    samples = np.frombuffer(message.data, "<u2") >> (16 - bits)
    message.data = array("B", samples.astype("<u2").tobytes())
    reference = decode(message_of(bgr, encoding))
    assert np.abs(images.ImageDecoder().decode(message).astype(int) - reference).max() <= 1
    assert np.abs(images.ImageDecoder(bits).decode(message).astype(int) - reference).max() <= 1


def test_the_bits_in_use_never_shrink() -> None:
    decoder = images.ImageDecoder()
    bright, dark = (message_of(np.full((4, 4, 3), value, np.uint8), "mono16") for value in (255, 3))
    assert decoder.decode(bright).max() == 255
    assert decoder.decode(dark).max() == 3, "a dark picture of a 16-bit camera stays dark"


def test_significant_bits_are_checked() -> None:
    with pytest.raises(ValueError, match="0 or one of 8, 10, 12, 14, 16, not 9"):
        images.ImageDecoder(9)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_compressed_mosaic_is_debayered(pattern: str, extension: str) -> None:
    bgr = smooth_picture(96, 64)
    codec = extension[1:].replace("jpg", "jpeg")
    data = cv2.imencode(extension, rows_of(bgr, f"bayer_{pattern}8"), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    for form in (
        f"; {codec} compressed ",
        f";{codec} compressed",
        f"; {codec} compressed bayer_{pattern}8",
        "",
    ):
        message = CompressedImage(format=f"bayer_{pattern}8{form}", data=array("B", data.tobytes()))
        assert np.abs(decode(message).astype(int) - bgr).max() <= 16


def test_a_bayer_camera_that_compresses_colours_is_left_as_it_is() -> None:
    message = compressed(".png", smooth_picture(96, 64))
    message.format = "bayer_rggb8; png compressed bgr8"
    assert (decode(message) == smooth_picture(96, 64)).all()
    gray = compressed(".png", np.full((8, 8), 200, np.uint8))
    gray.format = "bayer_rggb8; png compressed mono8"
    assert (decode(gray) == 200).all()


@pytest.mark.parametrize(
    "form",
    [
        "16UC1; png compressed ",
        "32FC1; compressedDepth png",
        "16UC1; compressedDepth",
        "compressedDepth",
        "16uc1; png compressed",
        "mono16; compresseddepth png",
    ],
)
def test_compressed_depth_is_refused(form: str) -> None:
    message = compressed(".png", np.full((8, 8), 1200, np.uint16))
    message.format = form
    with pytest.raises(MalformedImage, match="depth|Depth"):
        decode(message)


def test_compressed_low_bits_give_the_picture() -> None:
    message = compressed(".png", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    message.format = "mono16; png compressed "
    assert (images.ImageDecoder().decode(message)[..., 0] == (np.arange(4096) >> 4).reshape(64, 64)).all()


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("tail", [b"", b"\x00" * 7, b"\xff"])
def test_what_follows_the_end_of_a_jpeg_does_no_harm(progressive: int, tail: bytes) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 96, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
    data = cv2.imencode(".jpg", noise, options)[1].tobytes()
    assert decode(CompressedImage(format="jpeg", data=array("B", data + tail))).shape == noise.shape
    for keep in rng.integers(2, len(data) - 1, 20):
        with pytest.raises(MalformedImage, match="cannot be decoded"):
            decode(CompressedImage(format="jpeg", data=array("B", data[:keep])))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    data = cv2.imencode(".jpg", smooth_picture(96, 64))[1].tobytes()
    thumbnail = cv2.imencode(".jpg", smooth_picture(16, 16))[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode(CompressedImage(format="jpeg", data=array("B", whole))).shape == (64, 96, 3)
    with pytest.raises(MalformedImage, match="no end marker"):
        decode(CompressedImage(format="jpeg", data=array("B", whole[:-40])))


def test_data_may_be_an_array_bytes_or_a_list() -> None:
    message = message_of(smooth_picture(8, 6), "rgb8")
    reference = decode(message)
    kinds: list[Callable[[array], object]] = [bytes, list, np.array]
    for kind in kinds:
        fields = {
            name: getattr(message, name) for name in ("width", "height", "encoding", "is_bigendian", "step")
        }
        other = type("Plain", (), {**fields, "data": kind(message.data)})()
        assert (decode(other) == reference).all()


def test_a_bgr_image_without_padding_is_not_copied() -> None:
    message = message_of(smooth_picture(1280, 720), "bgr8")
    assert np.shares_memory(decode(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("encoding", ["rgb8", "mono16", "bayer_rggb16", "nv12"])
def test_720p_takes_milliseconds(encoding: str) -> None:
    message = message_of(smooth_picture(1280, 720), encoding, padding=5)
    durations_ns = []
    for _ in range(20):
        start_ns = time.perf_counter_ns()
        decode(message)
        durations_ns.append(time.perf_counter_ns() - start_ns)
    assert (
        min(durations_ns) < 10e6
    )  # about 0.5 ms on a free core; Python loops or float64 would take far more


def test_without_a_library_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Converter:
        raise ImportError("not here")

    monkeypatch.setattr(images, "cv_bridge_converter", absent)
    monkeypatch.setattr(images, "rosbags_converter", absent)
    with pytest.raises(ImportError, match="cv_bridge or rosbags-image"):
        images.default_converter.__wrapped__()
