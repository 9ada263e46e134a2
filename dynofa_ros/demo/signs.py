"""Procedural sign pictograms: the data of the demo supernet, and what the demo's camera sees.

Every picture is a pure function of (seed, index), so training, held-out and camera images are three
seeds of one generator, and no data set is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # OpenCV's stubs promise no element type, and it draws on uint8 and float32 alike
Plate = Callable[[Image, Image], None]  # draws on the picture and on its opacity
Glyph = Callable[[Image], None]
SIGN_PX = 160  # side of the flat pictogram before it is warped into the scene
TRAIN_SEED, HELD_OUT_SEED = 1, 2
SCENES_TRAIN_SEED, SCENES_HELD_OUT_SEED, SCENES_CAMERA_SEED = 101, 102, 111
# Of the seeds 3 to 17 the one whose first 450 and 900 pictures are of the most average difficulty: a run of
# a minute then measures about the accuracy of the held-out set and not the luck of its draw.
CAMERA_SEED = 11

RED, BLUE, YELLOW = (190, 25, 35), (25, 70, 165), (240, 195, 30)
WHITE, BLACK, GREY = (245, 245, 245), (20, 20, 20), (110, 110, 110)
CENTRE = SIGN_PX // 2


def _points(*xy: tuple[float, float]) -> NDArray[np.int32]:
    return np.array([[round(x * SIGN_PX), round(y * SIGN_PX)] for x, y in xy], np.int32)


def _polygon(image: Image, colour: tuple[int, int, int], *xy: tuple[float, float]) -> None:
    cv2.fillPoly(image, [_points(*xy)], colour, cv2.LINE_AA)


def _line(image: Image, colour: tuple[int, int, int], width: int, *xy: tuple[float, float]) -> None:
    cv2.polylines(image, [_points(*xy)], False, colour, width, cv2.LINE_AA)


def _arc(
    cx: float, cy: float, rx: float, ry: float, start: float, end: float
) -> tuple[tuple[float, float], ...]:
    angles = np.deg2rad(np.linspace(start, end, 15))
    return tuple((cx + rx * float(np.cos(a)), cy + ry * float(np.sin(a))) for a in angles)


# A stroke font in a box 0.6 wide and 1 high: OpenCV's own fonts changed between versions 4 and 5, and the
# pictures must be the same wherever the demo runs.
STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (_arc(0.3, 0.5, 0.28, 0.5, 0, 360),),
    "1": (((0.12, 0.2), (0.38, 0.0), (0.38, 1.0)),),
    "2": ((*_arc(0.3, 0.28, 0.28, 0.28, -180, 40), (0.02, 1.0), (0.6, 1.0)),),
    "3": (_arc(0.28, 0.25, 0.27, 0.25, -150, 90), _arc(0.28, 0.73, 0.3, 0.27, -90, 150)),
    "5": (((0.54, 0.0), (0.08, 0.0), (0.05, 0.46), *_arc(0.28, 0.68, 0.3, 0.32, -110, 140)),),
    "6": (_arc(0.3, 0.69, 0.28, 0.31, 0, 360), ((0.02, 0.69), (0.06, 0.4), (0.24, 0.12), (0.48, 0.0))),
    "8": (_arc(0.3, 0.25, 0.24, 0.25, 0, 360), _arc(0.3, 0.74, 0.29, 0.26, 0, 360)),
    "S": (_arc(0.3, 0.25, 0.27, 0.25, -30, -270), _arc(0.3, 0.75, 0.28, 0.25, -90, 150)),
    "T": (((0.0, 0.0), (0.6, 0.0)), ((0.3, 0.0), (0.3, 1.0))),
    "O": (_arc(0.3, 0.5, 0.3, 0.5, 0, 360),),
    "P": (((0.04, 1.0), (0.04, 0.0), (0.3, 0.0), *_arc(0.3, 0.27, 0.28, 0.27, -90, 90), (0.04, 0.54)),),
}


def _text(image: Image, text: str, colour: tuple[int, int, int], height: float) -> None:
    """Centred text, its height a share of the sign."""
    advance = 0.82 * height
    left = 0.5 - (advance * (len(text) - 1) + 0.6 * height) / 2
    for i, character in enumerate(text):
        for stroke in STROKES[character]:
            points = [(left + i * advance + x * height, 0.5 + (y - 0.5) * height) for x, y in stroke]
            _line(image, colour, max(5, round(0.17 * height * SIGN_PX)), *points)


def _disc(image: Image, mask: Image, fill: tuple[int, int, int], border: tuple[int, int, int]) -> None:
    cv2.circle(mask, (CENTRE, CENTRE), 74, 255, -1, cv2.LINE_AA)
    cv2.circle(image, (CENTRE, CENTRE), 74, border, -1, cv2.LINE_AA)
    cv2.circle(image, (CENTRE, CENTRE), 58, fill, -1, cv2.LINE_AA)


def _plate(
    corners: list[tuple[float, float]], border: tuple[int, int, int], fill: tuple[int, int, int]
) -> Plate:
    def draw(image: Image, mask: Image) -> None:
        outer = _points(*corners)
        inner = np.int32(np.round(outer.mean(0) + (outer - outer.mean(0)) * 0.76))
        for canvas, points, colour in ((mask, outer, 255), (image, outer, border), (image, inner, fill)):
            cv2.fillPoly(canvas, [points], colour, cv2.LINE_AA)

    return draw


def _round(fill: tuple[int, int, int], border: tuple[int, int, int]) -> Plate:
    return lambda image, mask: _disc(image, mask, fill, border)


def _octagon() -> list[tuple[float, float]]:
    angles = np.deg2rad(np.arange(22.5, 360, 45))
    return [(0.5 + 0.48 * float(np.cos(a)), 0.5 + 0.48 * float(np.sin(a))) for a in angles]


PROHIBITION, MANDATORY = _round(WHITE, RED), _round(BLUE, BLUE)
WARNING = _plate([(0.5, 0.04), (0.97, 0.88), (0.03, 0.88)], RED, WHITE)
YIELD = _plate([(0.03, 0.12), (0.97, 0.12), (0.5, 0.96)], RED, WHITE)
DIAMOND = _plate([(0.5, 0.03), (0.97, 0.5), (0.5, 0.97), (0.03, 0.5)], WHITE, YELLOW)
SQUARE = _plate([(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)], BLUE, BLUE)
STOP = _plate(_octagon(), RED, RED)


def _limit(text: str) -> Glyph:
    return lambda image: _text(image, text, BLACK, 0.34 if len(text) == 2 else 0.26)


def _arrow(colour: tuple[int, int, int], *paths: tuple[tuple[float, float], ...]) -> Glyph:
    """Arrow(s) along paths of (x, y) in 0..1; the head points along the last segment."""

    def draw(image: Image) -> None:
        for path in paths:
            _line(image, colour, 12, *path)
            (x0, y0), (x1, y1) = path[-2], path[-1]
            ahead = np.array([x1 - x0, y1 - y0]) / np.hypot(x1 - x0, y1 - y0) * 0.13
            side = np.array([-ahead[1], ahead[0]])
            tip, base = np.array([x1, y1]) + ahead, np.array([x1, y1])
            _polygon(image, colour, *((float(x), float(y)) for x, y in (tip, base + side, base - side)))

    return draw


def _lines(colour: tuple[int, int, int], width: int, *paths: tuple[tuple[float, float], ...]) -> Glyph:
    def draw(image: Image) -> None:
        for path in paths:
            _line(image, colour, width, *path)

    return draw


def _pedestrian(image: Image) -> None:
    cv2.circle(image, (CENTRE, 62), 9, BLACK, -1, cv2.LINE_AA)
    _lines(BLACK, 7, ((0.5, 0.44), (0.48, 0.62), (0.38, 0.8)), ((0.48, 0.62), (0.58, 0.8)))(image)
    _lines(BLACK, 6, ((0.36, 0.58), (0.5, 0.49), (0.62, 0.58)))(image)


def _roundabout(image: Image) -> None:
    for start in (0, 120, 240):
        cv2.ellipse(image, (CENTRE, CENTRE), (36, 36), 0, start, start + 75, WHITE, 11, cv2.LINE_AA)
        angle = np.deg2rad(start + 75)
        base = 0.5 + 0.225 * np.array([np.cos(angle), np.sin(angle)])
        along, out = np.array([-np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), np.sin(angle)])
        corners = (base + 0.12 * along, base + 0.09 * out, base - 0.09 * out)
        _polygon(image, WHITE, *((float(x), float(y)) for x, y in corners))


SIGNS: dict[str, tuple[Plate, Glyph]] = {
    "stop": (STOP, lambda image: _text(image, "STOP", WHITE, 0.24)),
    "yield": (YIELD, lambda image: None),
    "no_entry": (_round(RED, RED), _lines(WHITE, 20, ((0.24, 0.5), (0.76, 0.5)))),
    "no_parking": (_round(BLUE, RED), _lines(RED, 13, ((0.24, 0.24), (0.76, 0.76)))),
    "no_stopping": (
        _round(BLUE, RED),
        _lines(RED, 13, ((0.24, 0.24), (0.76, 0.76)), ((0.76, 0.24), (0.24, 0.76))),
    ),
    "limit_20": (PROHIBITION, _limit("20")),
    "limit_30": (PROHIBITION, _limit("30")),
    "limit_50": (PROHIBITION, _limit("50")),
    "limit_60": (PROHIBITION, _limit("60")),
    "limit_80": (PROHIBITION, _limit("80")),
    "limit_100": (PROHIBITION, _limit("100")),
    "end_of_limits": (
        _round(WHITE, GREY),
        _lines(BLACK, 6, ((0.3, 0.78), (0.72, 0.2)), ((0.36, 0.82), (0.78, 0.24))),
    ),
    "turn_left": (MANDATORY, _arrow(WHITE, ((0.78, 0.5), (0.34, 0.5)))),
    "turn_right": (MANDATORY, _arrow(WHITE, ((0.22, 0.5), (0.66, 0.5)))),
    "straight": (MANDATORY, _arrow(WHITE, ((0.5, 0.8), (0.5, 0.33)))),
    "straight_or_left": (
        MANDATORY,
        _arrow(WHITE, ((0.58, 0.8), (0.58, 0.33)), ((0.58, 0.62), (0.34, 0.62))),
    ),
    "straight_or_right": (
        MANDATORY,
        _arrow(WHITE, ((0.42, 0.8), (0.42, 0.33)), ((0.42, 0.62), (0.66, 0.62))),
    ),
    "roundabout": (MANDATORY, _roundabout),
    "curve_left": (WARNING, _arrow(BLACK, ((0.58, 0.8), (0.58, 0.6), (0.44, 0.48)))),
    "curve_right": (WARNING, _arrow(BLACK, ((0.42, 0.8), (0.42, 0.6), (0.56, 0.48)))),
    "crossroads": (WARNING, _lines(BLACK, 11, ((0.5, 0.4), (0.5, 0.8)), ((0.33, 0.62), (0.67, 0.62)))),
    "pedestrians": (WARNING, _pedestrian),
    "danger": (WARNING, _lines(BLACK, 12, ((0.5, 0.4), (0.5, 0.64)), ((0.5, 0.75), (0.5, 0.77)))),
    "priority_road": (DIAMOND, lambda image: None),
    "parking": (SQUARE, lambda image: _text(image, "P", WHITE, 0.56)),
}
CLASS_NAMES: tuple[str, ...] = tuple(SIGNS)


def _pictogram(name: str) -> tuple[Image, Image]:
    """The flat sign and its opacity, both SIGN_PX square."""
    image = np.zeros((SIGN_PX, SIGN_PX, 3), np.uint8)
    mask = np.zeros((SIGN_PX, SIGN_PX), np.uint8)
    plate, glyph = SIGNS[name]
    plate(image, mask)
    glyph(image)
    return image, mask


PICTOGRAMS = tuple(_pictogram(name) for name in CLASS_NAMES)


def _background(rng: np.random.Generator, size: int) -> Image:
    """Smooth random colours with clutter in the colours of signs, so that colour alone says little."""
    coarse = rng.uniform(20, 220, (int(rng.integers(2, 6)), int(rng.integers(2, 6)), 3)).astype(np.float32)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    palette = (RED, BLUE, YELLOW, WHITE, BLACK, GREY)
    for _ in range(int(rng.integers(2, 9))):
        colour = np.clip(
            np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 30, 3), 0, 255
        ).tolist()
        x, y, w, h = (int(v) for v in rng.uniform(0, size, 4))
        if rng.random() < 0.5:
            cv2.rectangle(image, (x, y), (x + w // 3, y + h // 3), colour, -1, cv2.LINE_AA)
        else:
            cv2.ellipse(
                image,
                (x, y),
                (1 + w // 6, 1 + h // 6),
                float(rng.uniform(0, 180)),
                0,
                360,
                colour,
                -1,
                cv2.LINE_AA,
            )
    return image


def _warp(rng: np.random.Generator, size: int) -> NDArray[Any]:
    """Homography from the flat sign into the scene: scale, rotation, shift and perspective."""
    side = size * rng.uniform(0.36, 0.82)
    angle = np.deg2rad(rng.normal(0, 9))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2 * (1, rng.uniform(0.8, 1.1))
    corners += rng.uniform(-0.1, 0.1, (4, 2)) * side
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slack = max(size - side, 0) / 2 * 0.75
    target = corners @ rotation.T + size / 2 + rng.uniform(-slack, slack, 2)
    source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * SIGN_PX
    return cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))


def _occlude(rng: np.random.Generator, image: Image, centre: NDArray[Any], size: int) -> None:
    """A bar (twig, pole, strap) or blob over part of the sign."""
    colour = rng.uniform(10, 200, 3).tolist()
    at = centre + rng.normal(0, 0.16 * size, 2)
    if rng.random() < 0.6:
        direction = rng.uniform(0, np.pi)
        reach = size * np.array([np.cos(direction), np.sin(direction)])
        ends = [tuple(int(v) for v in at + s * reach) for s in (-1, 1)]
        cv2.line(image, ends[0], ends[1], colour, max(1, int(size * rng.uniform(0.02, 0.08))), cv2.LINE_AA)
    else:
        radii = tuple(int(v) for v in size * rng.uniform(0.04, 0.13, 2))
        cv2.ellipse(image, tuple(int(v) for v in at), radii, 0, 0, 360, colour, -1, cv2.LINE_AA)


def _expose(rng: np.random.Generator, image: Image) -> Image:
    """Light gradient, contrast, defocus or motion blur, sensor noise."""
    size = min(image.shape[:2])
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in image.shape[:2])
    gain = rng.uniform(0.45, 1.25)
    light = gain * (1 + rng.normal(0, 0.25) * rows[:, None] + rng.normal(0, 0.25) * columns[None, :])
    image = image * light[..., None].astype(np.float32) + np.float32(rng.normal(0, 14))
    sigma = abs(rng.normal(0, 0.011)) * size
    if sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.3:
        length = 1 + 2 * int(rng.integers(1, max(2, size // 24)))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D((length / 2, length / 2), float(rng.uniform(0, 180)), 1.0)
        turned: Image = cv2.warpAffine(kernel, turn, (length, length))
        image = cv2.filter2D(image, -1, turned / max(float(turned.sum()), 1e-3))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 20))
    return image + noise


def _painted(
    rng: np.random.Generator, scene: Image, label: int, warp: NDArray[Any]
) -> tuple[Image, NDArray[Any]]:
    """A square scene, float32, with a sign in it, and the opacity of the sign, 0..1, (size, size, 1)."""
    size = len(scene)
    flat, opacity = PICTOGRAMS[label]
    # Shrinking by a large factor aliases; a blur in proportion stands in for the lens.
    shrink = SIGN_PX / (size * 0.6)
    if shrink > 1.5:
        flat, opacity = (cv2.GaussianBlur(a, (0, 0), shrink * 0.4) for a in (flat, opacity))
    sign = cv2.warpPerspective(flat, warp, (size, size)).astype(np.float32)
    alpha = cv2.warpPerspective(opacity, warp, (size, size)).astype(np.float32)[..., None] / 255
    fade = np.float32(rng.uniform(0.55, 1.0))  # sun-bleached paint
    return scene * (1 - alpha) + (sign * fade + (1 - fade) * 128) * alpha, alpha


def render_sample(seed: int, index: int, size: int = 128) -> tuple[NDArray[np.uint8], int]:
    """One scene with one sign.

    Returns an RGB image, uint8, (size, size, 3), and its label, an index into CLASS_NAMES.
    """
    rng = np.random.default_rng([seed, index])
    label = int(rng.integers(len(CLASS_NAMES)))
    scene = _background(rng, size)
    warp = _warp(rng, size)
    scene, _ = _painted(rng, scene, label, warp)
    centre = (warp @ [CENTRE, CENTRE, 1.0])[:2] / (warp @ [CENTRE, CENTRE, 1.0])[2]
    if rng.random() < 0.6:
        _occlude(rng, scene, centre, size)
    return np.clip(_expose(rng, scene), 0, 255).astype(np.uint8), label


SCENE_HEIGHT, SCENE_WIDTH = 360, 640  # px
SMALLEST_SIDE = 0.08  # of a box, in heights of the scene
MOST_SIGNS, TRIES = 5, 12


@dataclass(frozen=True)
class Scene:
    """RGB image, uint8 (H, W, 3); boxes (n, 4), px: left, top, right, bottom; labels (n,), of CLASS_NAMES."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def render_scene(seed: int, index: int, height: int = SCENE_HEIGHT, width: int = SCENE_WIDTH) -> Scene:
    """One scene with one to five signs that do not overlap."""
    rng = np.random.default_rng([seed, index])
    scene = _background(rng, max(height, width))
    top, left = (int(rng.integers(max(height, width) - side + 1)) for side in (height, width))
    scene = np.ascontiguousarray(scene[top : top + height, left : left + width])
    boxes: list[NDArray[Any]] = []
    labels: list[int] = []
    number = int(rng.integers(1, MOST_SIGNS + 1))
    for _ in range(TRIES):
        if len(boxes) == number:
            break
        patch = round(height * float(np.exp(rng.uniform(np.log(0.2), np.log(0.85)))))
        x, y = (int(rng.integers(side - patch + 1)) for side in (width, height))
        window = scene[y : y + patch, x : x + patch]
        warp, label = _warp(rng, patch), int(rng.integers(len(CLASS_NAMES)))
        painted, alpha = _painted(rng, window, label, warp)
        rows, columns = (np.flatnonzero((alpha[..., 0] > 0.5).any(axis)) for axis in (1, 0))
        if not len(rows) or min(np.ptp(rows), np.ptp(columns)) + 1 < SMALLEST_SIDE * height:
            continue
        box = np.array([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1], np.float32)
        if any((box[:2] < other[2:]).all() and (other[:2] < box[2:]).all() for other in boxes):
            continue
        window[:] = painted
        boxes.append(box)
        labels.append(label)
        if rng.random() < 0.4:
            _occlude(rng, scene, (box[:2] + box[2:]) / 2, round(float((box[2:] - box[:2]).mean() / 0.6)))
    image = np.clip(_expose(rng, scene), 0, 255).astype(np.uint8)
    return Scene(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))
