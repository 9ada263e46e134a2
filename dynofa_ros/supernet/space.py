"""Search spaces: what can be masked, the checked description of one sub-network, and the plan made from it.

Rooms above this one treat a configuration as opaque: its space checks, draws, encodes and describes it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dynofa_ros.supernet.graphs import Chain, Graph
from dynofa_ros.supernet.layers import Cost, Cut, Layer, Shape, cut, mapped

if TYPE_CHECKING:
    from dynofa_ros.supernet.graphs import Runner
    from dynofa_ros.supernet.preprocess import Image

Allowed = tuple[int, ...] | tuple[float, ...]
Statistics = Mapping[str, np.ndarray]  # BN means and variances of one sub-network, by official name
CLASSES = 1000  # of ImageNet, where no weights say how many


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One masked architecture and the size of its input. A family's own has the fields of its choices."""

    def to_dict(self) -> dict[str, Any]:
        """The ``config`` mapping of a library file."""
        entries = msgspec.structs.asdict(self).items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in entries}


class SubnetConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A once-for-all sub-network; entries of skipped blocks have no effect."""

    resolution: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int | float, ...]  # whole numbers where the space has whole ones
    depths: tuple[int, ...]
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A sub-network as a pure description: its layers, and the shape of one input.

    The masked torch forward, the materialised engines, the shapes that a checkpoint must have and the
    operation counts are all walks over it. A family whose networks are no chain of layers overrides
    ``stored``, ``graphs`` and ``costs``.
    """

    layers: tuple[Layer, ...]
    input_shape: Shape
    bn_epsilon: float

    def stored(self) -> dict[str, Shape]:
        """Shape of every array of a checkpoint, by its official name."""
        shapes: dict[str, Shape] = {}

        def add(layers: Sequence[Layer]) -> None:
            for layer in layers:
                shapes.update(layer.stored())
                for branch in layer.branches:
                    add(branch)

        add(self.layers)
        return shapes

    def graphs(self, weights: Mapping[str, np.ndarray], statistics: Statistics) -> dict[str, Graph]:
        """Its graphs by name, cut out of ``weights``. Raises ValueError as ``materialise`` does."""

        def fold(layer: Layer, arrays: Cut) -> Cut:
            folded = layer.fold(arrays, weights, statistics, self.bn_epsilon)
            return {name: np.ascontiguousarray(array, np.float32) for name, array in folded.items()}

        shape = self.input_shape
        for layer in self.layers:
            shape = layer.shape(shape)
        ops = tuple(mapped(cut(layer, weights), fold) for layer in self.layers)
        return {"network": Chain(ops, self.input_shape, shape)}

    def costs(self) -> Iterator[tuple[Layer, Cost, Shape]]:
        """Every layer, inner ones first, with its cost and the shape of its result."""
        return _costs(self.layers, self.input_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers."""
        return sum(cost.macs for _, cost, _ in self.costs())

    @property
    def params(self) -> int:
        """Weights and biases; scale and shift of batch normalisation."""
        return sum(cost.params for _, cost, _ in self.costs())


def _costs(layers: Sequence[Layer], shape: Shape) -> Iterator[tuple[Layer, Cost, Shape]]:
    for layer in layers:
        for branch, inputs in zip(layer.branches, layer.branch_inputs(shape), strict=True):
            yield from _costs(branch, inputs)
        shape = layer.shape(shape)
        yield layer, layer.cost(shape), shape


@dataclass(frozen=True)
class PredictorInput:
    """How an accuracy predictor sees sub-networks. file: under config/predictors/.

    encode(input sizes (N,), genes (N, G)) gives float32 (N, features); raises ValueError naming an input
    size for which the predictor does not hold.
    """

    file: str
    input_sizes: range
    encode: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TableLayout:
    """How the official latency tables name what they hold.

    keys(input size): names of the fixed layers, and of every variant of a block at each of its positions.
    position: which of the positions each block has, (blocks,).
    """

    keys: Callable[[int], tuple[list[str], list[list[str]]]]
    position: np.ndarray


class SearchSpace:
    """The sub-networks of one supernet.

    choices: allowed values, ascending, of every entry of every elastic dimension; input_sizes: px,
    ascending. A family gives these, ``active`` and ``layers``; the rest follows from them, and a family whose
    networks or configurations are of another kind overrides it.
    """

    name: str
    choices: dict[str, tuple[Allowed, ...]]
    input_sizes: Sequence[int]
    bn_epsilon: float = 0.0  # of no use without batch normalisation
    config_type: type[Any] = SubnetConfig
    size_entry = "resolution"  # of the configuration: the input size
    per_block: tuple[str, ...] = ("kernel_sizes", "expand_ratios")  # no effect where depth skips a block
    shown: tuple[str, ...] = ("depths",)  # beside the input size, in a table of sub-networks
    independent_blocks = True  # the cost of a block follows from its own entries of ``per_block``
    sizes: tuple[int, int, int] | None = None  # of a small, a usual and a large request, where these differ
    predictor: PredictorInput | None = None
    latency_table: TableLayout | None = None
    official_network: tuple[str, dict[str, Any]] | None = None  # its class ("module:class"), and arguments
    one_row_each = False  # of a detector: an object is in one row, so that no box suppresses another
    task = "classification"  # what its networks answer: the name of a task of an application
    head = "classifier.linear.weight"  # canonical name of the array whose first dimension is the classes

    # --- what a family says -----------------------------------------------------------------------------

    def active(self, genes: np.ndarray) -> np.ndarray:
        """Which of the stored blocks run, not skipped by depth: genes (N, G) -> bool (N, blocks)."""
        return np.zeros((len(genes), 0), bool)

    def layers(self, config: Any, classes: int) -> Sequence[Layer]:
        """The layers of a sub-network; none where its plan is no chain of layers."""
        return ()

    # --- configurations ---------------------------------------------------------------------------------

    def config(self, **entries: Any) -> Any:
        """A checked sub-network, by entry: the elastic dimensions and the input size.

        A scalar holds for every entry that has a choice; None, or left out, means the largest.
        Raises ValueError naming the entry, its value and the allowed values.
        """
        known = (self.size_entry, *self.choices)
        for name in entries:
            if name not in known:
                raise ValueError(f"{name} is no entry of a configuration: they are {', '.join(known)}")
        size = entries.get(self.size_entry)
        size = _one(self.size_entry, self.input_sizes[-1] if size is None else size, self.input_sizes)
        elastic = {name: self._entries(name, entries.get(name)) for name in self.choices}
        return self.config_type(**{self.size_entry: size}, **elastic)

    def from_mapping(self, mapping: Mapping[str, Any]) -> Any:
        """The checked sub-network of a ``config`` mapping as in a library file.

        Raises msgspec.ValidationError for what is not of its form, ValueError as ``config`` does.
        """
        return self.checked(msgspec.convert(mapping, self.config_type))

    def imported(self, mapping: Mapping[str, Any]) -> Any:
        """The sub-network that another program describes: the ``net.config`` of a network that the official
        code extracted, or what its search found: ks, e, d, w and r or image_size; or as ``from_mapping``.

        Raises ValueError, of which ValidationError is a kind, saying what is not of this space.
        """
        names = {"ks": "kernel_sizes", "e": "expand_ratios", "d": "depths", "w": "widths"}
        names |= dict.fromkeys(("r", "image_size"), self.size_entry)
        layers = self.of_layers(mapping) if "blocks" in mapping else {}
        known = {*names, *names.values()} if layers else mapping.keys() - {"wid"}
        entries = {names.get(k, k): v for k, v in mapping.items() if k in known and v is not None}
        size = entries.get(self.size_entry)
        entries |= {self.size_entry: size[0]} if isinstance(size, list) and len(size) == 1 else {}
        return self.config(**entries, **layers)

    def of_layers(self, network: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of a network whose layers are described one by one, as in ``net.config``."""
        raise ValueError(f"{self.name}: a net.config is not understood: give ks, e and d")

    def checked(self, config: Any) -> Any:
        """``config``. Raises ValueError if it is one of another space."""
        return self.config(**msgspec.structs.asdict(config))

    def _entries(self, name: str, value: Any) -> tuple[Any, ...]:
        allowed = self.choices[name]
        if value is None:
            return tuple(a[-1] for a in allowed)
        # an array of no dimension is a number, though it has a __len__
        scalar = not isinstance(value, Sequence | np.ndarray) or np.ndim(value) == 0
        if not allowed and (scalar or len(value)):
            raise ValueError(f"{name} = {value!r} is not allowed: {self.name} has none, leave it out")
        if scalar:
            elastic = [a for a in allowed if len(a) > 1]
            return tuple(_one(name, value, elastic[0]) if len(a) > 1 else a[0] for a in allowed)
        if len(value) != len(allowed):
            raise ValueError(
                f"{name} has {len(value)} entries: it must be one number or {len(allowed)} of them"
            )
        return tuple(_one(f"{name}[{i}]", v, a) for i, (v, a) in enumerate(zip(value, allowed, strict=True)))

    @property
    def largest(self) -> Any:
        """The whole supernet at its largest input."""
        return self.config()

    @property
    def smallest(self) -> Any:
        return self.decode(np.zeros(len(self.gene_sizes), int), self.input_sizes[0])

    def random(self, rng: np.random.Generator) -> Any:
        """Every entry and the input size drawn uniformly."""
        drawn: dict[str, Any] = {n: [rng.choice(a).item() for a in own] for n, own in self.choices.items()}
        return self.config(**drawn, **{self.size_entry: int(rng.choice(self.input_sizes))})

    def input_size(self, config: Any) -> int:
        """Side of its input, px."""
        return int(getattr(config, self.size_entry))

    def resized(self, config: Any, **size: int) -> Any:
        """The same sub-network at another size of its input, given by the entries that are the size."""
        return self.config(**{**msgspec.structs.asdict(config), **size})

    def label(self, config: Any) -> str:
        """A short word for ids."""
        return f"r{self.input_size(config)}"

    def describe(self, config: Any) -> dict[str, str]:
        """What tells sub-networks apart, for a table: text by column."""
        shown = {name: ",".join(map(str, getattr(config, name))) for name in self.shown}
        return {"px": str(self.input_size(config)), **shown}

    def preprocess(self, bgr: Image, config: Any) -> np.ndarray:
        """The network's input, float32 (1, 3, R, R), of an image as ros/images.py decodes it."""
        from dynofa_ros.supernet.preprocess import preprocess  # loads OpenCV

        return preprocess(bgr, self.input_size(config))

    def read(self, path: Path) -> Any:
        """The weights of a file of its own kind; None where they are a checkpoint."""
        return None

    def preparation(self, config: Any) -> Hashable:
        """The same for sub-networks whose inputs are prepared in the same way."""
        return self.plan(config).input_shape

    def scale(self, image: Shape, config: Any) -> tuple[float, float]:
        """Of a detector: px of its input per px of an image of shape (H, W, ...), across and down."""
        raise TypeError(f"{self.name} has no boxes")

    def with_aspect(self, aspect: float) -> SearchSpace:
        """The same space, for images of an aspect (height by width) where its inputs have one."""
        return self

    def exercise(self, run: Runner, config: Any, size: int | None = None) -> None:
        """Run a prepared sub-network once, to warm it up or to time it. size: of the request, where ``sizes``
        says that requests have one; None = the usual one."""
        run(np.zeros((1, *self.plan(config).input_shape), np.float32))

    # --- genes: every entry as its position among the allowed values, entry by entry ------------------------

    @cached_property
    def gene_sizes(self) -> np.ndarray:
        """Number of allowed values of every entry, (G,)."""
        return np.array([len(allowed) for entries in self.choices.values() for allowed in entries])

    @cached_property
    def columns(self) -> dict[str, slice]:
        """The genes of every dimension."""
        lengths = [len(entries) for entries in self.choices.values()]
        ends = zip(self.choices, lengths, accumulate(lengths), strict=True)
        return {name: slice(end - length, end) for name, length, end in ends}

    def encode(self, configs: Sequence[Any]) -> np.ndarray:
        """The genes of checked configurations, (N, G)."""
        allowed = [a for entries in self.choices.values() for a in entries]
        rows = [[v for name in self.choices for v in getattr(config, name)] for config in configs]
        genes = [[a.index(v) for a, v in zip(allowed, row, strict=True)] for row in rows]
        return np.array(genes, int).reshape(len(configs), len(allowed))

    def decode(self, genes: np.ndarray, input_size: int) -> Any:
        """The sub-network of one row of genes, (G,)."""
        entries: dict[str, Any] = {
            name: [a[i] for a, i in zip(self.choices[name], genes[columns], strict=True)]
            for name, columns in self.columns.items()
        }
        return self.config(**entries, **{self.size_entry: int(input_size)})

    def canonical(self, genes: np.ndarray) -> np.ndarray:
        """Genes (N, G) with 0 for every one without effect, so that equal sub-networks are equal rows."""
        genes, active = genes.copy(), self.active(genes)
        for name in self.per_block:
            if self.choices[name]:
                genes[:, self.columns[name]] *= active
        return genes

    @property
    def variants(self) -> int:
        """In how many ways a block can run; 0 where its cost depends on the choices for other blocks too."""
        ways = math.prod(len(self.choices[name][0]) for name in self.per_block if self.choices[name])
        return ways if self.independent_blocks else 0

    def variant(self, genes: np.ndarray) -> np.ndarray:
        """The way each block runs: genes (N, G) -> (N, blocks); the last of ``per_block`` counts fastest."""
        way = np.zeros(1, int)
        for name in self.per_block:
            way = way * len(self.choices[name][0]) + genes[:, self.columns[name]]
        return way

    def uniform(self, variant: int, input_size: int) -> Any:
        """The deepest sub-network whose blocks all run in one way."""
        genes = self.gene_sizes - 1
        for name in reversed(self.per_block):
            variant, genes[self.columns[name]] = divmod(variant, len(self.choices[name][0]))
        return self.decode(genes, input_size)

    # --- the network ------------------------------------------------------------------------------------

    def plan(self, config: Any, classes: int = CLASSES) -> Plan:
        """The layers of one sub-network."""
        side = self.input_size(config)
        return Plan(tuple(self.layers(config, classes)), (3, side, side), self.bn_epsilon)

    def parameter_shapes(self, classes: int) -> dict[str, Shape]:
        """Shape of every array of a checkpoint, by its official name."""
        return self.plan(self.largest, classes).stored()

    @cached_property
    def batch_normalised(self) -> bool:
        """Whether sub-networks have BN statistics of their own."""
        return any(key.endswith("running_mean") for key in self.parameter_shapes(CLASSES))

    def canonical_name(self, key: str) -> str:
        """The one name behind all names under which the official code ever stored the same array.

        It drops DataParallel's prefix, the block's old name and the doubled names of elastic layers
        ("bn.bn", "conv.conv", "linear.linear"), which an extracted sub-network does not have.
        """
        name = key.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
        return ".".join(part for part, _ in groupby(name.split(".")))

    def official_entries(self, config: Any) -> dict[str, Any]:
        """The arguments that make a sub-network the active one of the official network."""
        values = zip(("ks", "e", "d", "w"), (getattr(config, name) for name in self.choices), strict=True)
        return {name: list(entries) for name, entries in values if entries}


def _one(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    # bool is an int to Python, NumPy numbers are not: accept what equals an allowed value
    if not isinstance(value, bool | np.bool_ | str | bytes):
        try:
            number = float(value) if isinstance(allowed[0], float) else operator.index(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        for choice in allowed:
            if number == choice or math.isclose(number, choice, rel_tol=1e-6):  # 0.2 in float32 is not 0.2
                return choice
    raise ValueError(f"{name} = {value!r} is not allowed: it must be {_allowed_text(allowed)}")


def _allowed_text(allowed: Sequence[Any]) -> str:
    if isinstance(allowed, range) and len(allowed) > 1:
        return f"a multiple of {allowed.step} in {allowed[0]}..{allowed[-1]}"
    return f"one of {', '.join(map(str, allowed))}" if len(allowed) > 1 else str(allowed[0])
