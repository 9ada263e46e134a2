"""Latency of masked sub-networks next to the same networks deployed alone and to the official code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dynofa_ros.bench.timing import (
    MIN_ROUNDS,
    Contenders,
    Progress,
    Times,
    call,
    images,
    interleaved,
    median,
    part,
    ratios,
    repeated,
    silent,
)
from dynofa_ros.supernet.engines.engine import ImageFunction
from dynofa_ros.supernet.layers import Shape
from dynofa_ros.supernet.materialise import Subnet
from dynofa_ros.supernet.registry import engine_names, load_engine, official_spaces
from dynofa_ros.supernet.space import SearchSpace
from dynofa_ros.supernet.supernet import load_supernet

SUBNETS = ("max", "mid", "min")
SIDE_PX = 224
THREADS = (1, 2)
DISTURBED = 1.2
TOLERANCE = 0.01  # of what another image changes in the output
OURS, STATIC, OFFICIAL, COMPILED = "ours", "static", "official", "compiled"


def run(
    progress: Progress = silent,
    *,
    spaces: Sequence[str] | None = None,
    engines: Sequence[str] | None = None,
    threads: Sequence[int] = THREADS,
    rounds: int = 50,
    limit_s: float = 4.0,
    compile_one: bool = False,
) -> list[dict[str, Any]]:
    """One row per space, sub-network, engine and number of threads.

    ``median_ms`` is ours, the ratios are medians of ratios within a round. ``rounds`` is the most that is
    done; ``limit_s`` ends each interleaved run (one space, engine and number of threads) sooner.
    ``ratio_to_official`` is None where the official code is not installed, or was disturbed.
    ``compile_one``: also torch.compile the mid sub-network of the first space, which takes half a minute.
    Raises EngineError, or RuntimeError if networks that are compared do not compute the same.
    """
    engines = installed() if engines is None else engines
    spaces = official_spaces() if spaces is None else spaces
    rows: list[dict[str, Any]] = []
    for number, space in enumerate(spaces):
        rival = Rival(space)
        for index, count in enumerate(threads):
            share = part(progress, number * len(threads) + index, len(spaces) * len(threads))
            rows += rival.rows(engines, count, rounds, limit_s, compile_one and number == index == 0, share)
    return [without_disturbed(row, rows) for row in rows]


def without_disturbed(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row without its ratio to the official code, if that was slower than with fewer threads.

    Two threads of torch wait for each other in a loop: where others use the cores they can be 20 times slower
    than one. A ratio to that would flatter us.
    """
    same = ("space", "subnet", "engine")
    fewer = [
        r["official_ms"]
        for r in rows
        if all(r[key] == row[key] for key in same) and r["threads"] < row["threads"] and r["official_ms"]
    ]
    disturbed = bool(fewer) and row["official_ms"] > DISTURBED * min(fewer)
    return row | ({"ratio_to_official": None} if disturbed else {}) | {"official_disturbed": disturbed}


def installed() -> list[str]:
    """The engines that can be measured here."""
    return [name for name in engine_names() if importlib.util.find_spec(name) is not None]


def subnets(space: SearchSpace, side_px: int = SIDE_PX) -> dict[str, Any]:
    """The largest, the middle and the smallest choice in every dimension, with one input size."""
    genes = {"max": space.gene_sizes - 1, "mid": space.gene_sizes // 2, "min": 0 * space.gene_sizes}
    side_px = min(side_px, space.input_sizes[-1])
    return {name: space.decode(row, side_px) for name, row in genes.items()}


@dataclass
class Rival:
    """One space: its supernet here, the official one where there is one, and the static networks."""

    space: str

    def __post_init__(self) -> None:
        from dynofa_ros.bench import static_networks  # torch takes a second to load

        self.networks = static_networks
        self.official = static_networks.official(self.space)
        state = self.official.net.state_dict() if self.official else None
        self.supernet = load_supernet(self.space, state)
        self.configs = subnets(self.supernet.space)
        self._static: dict[tuple[bool, str], Any] = {}
        self._checked: set[tuple[str, str]] = set()
        self.extracted = self.official if self.official and self.official.extracts else None
        self.source = "official get_active_subnet, BN fused" if self.extracted else "same layers in torch"
        if self.official is None:
            self.source += "; the official code is not installed"

    def subnet(self, name: str) -> Subnet:
        """The sub-network, cut out of the supernet."""
        return self.supernet.materialise(self.configs[name])

    def shape(self, name: str) -> Shape:
        """Shape of one input."""
        return self.supernet.plan(self.configs[name]).input_shape

    def static_module(self, name: str) -> Any:
        """The same network as a torch module of its own."""
        if self.extracted is None:
            return self.networks.plain(self.subnet(name))
        return self.networks.deployed(self.extracted.static(self.configs[name]))

    def static_runner(self, engine: str, name: str, threads: int) -> ImageFunction:
        """The same network deployed alone; what it is made from is made once."""
        key = engine == "torch", name
        if key not in self._static:
            module = self.static_module(name)
            shape = self.shape(name)
            self._static[key] = module if engine == "torch" else self.networks.exported(module, shape)
        return self.networks.static_runner(engine, self._static[key], threads)

    def rows(
        self,
        engines: Sequence[str],
        threads: int,
        rounds: int,
        limit_s: float,
        compile_one: bool,
        progress: Progress,
    ) -> list[dict[str, Any]]:
        """Rows of all sub-networks and engines with one number of threads."""
        import torch

        torch.set_num_threads(threads)  # one setting per process
        rows = []
        for index, engine in enumerate(engines):
            for name in self.configs:
                self._check(engine, name, threads)
            share = part(progress, index, len(engines) + 1)
            prepare = partial(self._pairs, engine, threads)
            times = repeated(prepare, rounds, limit_s=limit_s, progress=share)
            rows += [self._row(name, engine, threads, times) for name in self.configs]
        share = part(progress, len(engines), len(engines) + 1)
        groups = self._beside(engines, threads, compile_one)
        found = interleaved(groups, max(MIN_ROUNDS, rounds // 4), limit_s=limit_s, progress=share)
        beside = {name: [values] for name, values in found.items()}
        return [row | self._official_columns(row, beside) for row in rows]

    def _ours(self, engine: str, name: str, threads: int) -> ImageFunction:
        return load_engine(engine).prepare(self.subnet(name), threads, "cpu")

    def _pairs(self, engine: str, threads: int) -> Contenders:
        """Ours and the static network of every sub-network."""
        calls: dict[str, Callable[[], object]] = {}
        for name in self.configs:
            shape = self.shape(name)
            calls[f"{name} {OURS}"] = call(self._ours(engine, name, threads), shape)
            calls[f"{name} {STATIC}"] = call(self.static_runner(engine, name, threads), shape)
        return calls

    def _beside(self, engines: Sequence[str], threads: int, compile_one: bool) -> list[Contenders]:
        """The official forward, ours in torch and torch.compile in one group, every other engine in its own:
        torch's threads and those of another engine would disturb each other."""
        groups: dict[str, dict[str, Callable[[], object]]] = {"torch": {}}
        for name, config in self.configs.items():
            shape = self.shape(name)
            for engine in engines:
                ours = call(self._ours(engine, name, threads), shape)
                groups.setdefault(engine, {})[f"{name} {engine}"] = ours
            if self.official is not None:
                groups["torch"][f"{name} {OFFICIAL}"] = call(self.official.dynamic(config), shape)
        if compile_one:
            fast = self.networks.compiled(self.static_module("mid"))
            groups["torch"][f"mid {COMPILED}"] = call(fast, self.shape("mid"))
        return [group for group in groups.values() if group]

    def _check(self, engine: str, name: str, threads: int) -> None:
        """Raises RuntimeError if ours is not the same network as the static one. Once is enough."""
        if (engine, name) in self._checked:
            return
        self._checked.add((engine, name))
        ours, static = self._ours(engine, name, threads), self.static_runner(engine, name, threads)
        error = difference(ours, static, self.shape(name))
        if not error <= TOLERANCE:
            what = f"{self.space} {name} in {engine}"
            raise RuntimeError(f"{what} is not its static network: {error:.2%} apart")

    def _row(self, name: str, engine: str, threads: int, times: Times) -> dict[str, Any]:
        ours, static = times[f"{name} {OURS}"], times[f"{name} {STATIC}"]
        ratio, least, largest = ratios(ours, static)
        return {
            "space": self.space,
            "subnet": name,
            "engine": engine,
            "threads": threads,
            "median_ms": median(ours),
            "ratio_to_static": ratio,
            "ratio_to_static_repeats": [least, largest],
            "static_ms": median(static),
            "static_source": self.source,
            "rounds": sum(map(len, ours)),
        }

    def _official_columns(self, row: dict[str, Any], beside: Times) -> dict[str, Any]:
        name, engine = row["subnet"], row["engine"]
        official, fast = beside.get(f"{name} {OFFICIAL}"), beside.get(f"{name} {COMPILED}")
        return {
            "official_ms": median(official) if official else None,
            "ratio_to_official": ratios(beside[f"{name} {engine}"], official)[0] if official else None,
            "compile_ms": median(fast) if fast and engine == "torch" else None,
        }


def difference(ours: ImageFunction, static: ImageFunction, shape: Shape) -> float:
    """Largest difference of the logits, as a share of what another image changes in them."""
    image, other = images(shape), images(shape, seed=1)
    expected = static(image)
    return float(np.abs(ours(image) - expected).max() / np.abs(static(other) - expected).max())
