"""The library file: what is accepted, what is refused and with which words; profiling."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.application.networks import DEMO_LIBRARY, DEMO_WEIGHTS, Networks
from dynofa_ros.library.library import (
    Entry,
    Latency,
    Library,
    LibraryError,
    check_library,
    load_library,
    load_statistics,
    pareto_front,
    save_library,
    save_statistics,
)
from dynofa_ros.library.profiling import measure
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
from dynofa_ros.supernet.weights import load_weights

SPACE = load_space(DEMO_SPACE)


def entry(name: str, latency_ms: float, accuracy: float) -> Entry:
    return Entry(
        id=name,
        config=SPACE.smallest.to_dict(),
        accuracy=accuracy,
        accuracy_source="measured",
        latency_ms=Latency(latency_ms, latency_ms * 1.1),
        latency_source="measured",
        alpha_ms=latency_ms * 0.1,
        beta_ms=latency_ms * 0.9,
        macs=1,
        params=1,
    )


def library(*entries: Entry) -> Library:
    return Library(
        schema_version=1,
        space=DEMO_SPACE,
        weights_sha256="0" * 64,
        board="demo",
        processor="cpu",
        reference_frequencies_hz={"cpu0": 1_907_200_000},
        notes=(),
        entries=entries or (entry("a", 1.0, 0.7), entry("b", 2.0, 0.8)),
    )


def test_round_trip(tmp_path):
    save_library(tmp_path / "l.yaml", library())
    assert load_library(tmp_path / "l.yaml") == library()
    assert [p.name for p in tmp_path.iterdir()] == ["l.yaml"]  # no temporary file is left


def placed(of: Entry, cluster: str | None, threads: int | None, factor: float = 1.0) -> Entry:
    """The same sub-network in another placement, slower by a factor."""
    slower = entry(of.id, of.latency_ms.median * factor, of.accuracy)
    return msgspec.structs.replace(slower, cluster=cluster, threads=threads)


def test_a_placement_is_a_front_of_its_own(tmp_path):
    a, b = library().entries
    own = library(
        *(placed(e, "cpu0", 1, 4.0) for e in (a, b)),
        *(placed(e, "cpu0", 2, 2.5) for e in (a, b)),
        placed(a, "cpu4", 1),
    )
    save_library(tmp_path / "l.yaml", own)
    read = load_library(tmp_path / "l.yaml")
    assert read == own and read.placements == (("cpu0", 1), ("cpu0", 2), ("cpu4", 1))
    assert pareto_front([*own.entries, placed(b, "cpu4", 1, 0.4)]) == (
        *own.entries[:4],
        placed(b, "cpu4", 1, 0.4),
    ), "a quicker and better one counts in its own placement only"
    assert read.find("a") == own.entries[0] and read.find("a", "cpu0", 2) == own.entries[2]
    assert read.find("b", "cpu4") is None and read.find("a", threads=3) is None
    assert read.best_within(5.0) == own.entries[3] and read.best_within(0.1) == own.entries[4]


def test_a_placement_that_is_no_front_and_an_id_of_two_networks_are_refused():
    a, b = library().entries
    flat = library(a, placed(a, "cpu0", 2, 1.2), placed(b, "cpu0", 2, 0.1))
    with pytest.raises(
        LibraryError, match=r"entries\[2\] \(b\) breaks the Pareto front with 2 threads on cpu0"
    ):
        check_library(flat)
    with pytest.raises(LibraryError, match=r"entries\[2\].id = 'a' is not unique with 2 threads"):
        check_library(library(a, placed(a, None, 2), placed(a, None, 2, 1.5)))
    other = msgspec.structs.replace(placed(a, None, 2), accuracy=0.75)
    with pytest.raises(LibraryError, match=r"entries\[1\] \(a\): config and accuracy must be those"):
        check_library(library(a, other))


def test_a_file_that_names_no_placement_is_written_without_the_keys(tmp_path):
    save_library(tmp_path / "l.yaml", library())
    text = (tmp_path / "l.yaml").read_text()
    assert "threads" not in text and "cluster" not in text
    assert load_library(tmp_path / "l.yaml").placements == (("", 0),)


def edit(path: list, value):
    def change(data: dict) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit(["schema_version"], 2), ["schema_version"]),
        (edit(["surprise"], 1), ["surprise"]),
        (edit(["space"], "alexnet"), ["alexnet", "ofa_mbv3"]),
        (edit(["processor"], "tpu"), ["processor", "tpu"]),
        (edit(["weights_sha256"], "unknown"), ["weights_sha256", "unknown", "64 hexadecimal digits or null"]),
        (edit(["entries", 0, "config", "expand_ratios"], 3.5), ["entries[0].config.expand_ratios"]),
        (
            edit(["entries", 0, "config", "expand_ratios"], [3.5] + [3] * 19),
            ["expand_ratios[0] = 3.5", "3, 4, 6"],
        ),
        (edit(["entries"], []), ["entries is empty"]),
        (
            edit(["entries", 0, "config", "resolution"], 66),
            ["entries[0] (a)", "resolution = 66", "multiple of 4"],
        ),
        (edit(["entries", 0, "config", "depths"], [2, 2]), ["entries[0] (a)", "depths has 2 entries"]),
        (edit(["entries", 0, "config", "resolution"], "big"), ["entries[0].config.resolution"]),
        (edit(["entries", 1, "accuracy"], 80.0), ["entries[1] (b).accuracy", "0..1"]),
        (edit(["entries", 1, "accuracy"], float("nan")), ["entries[1] (b).accuracy"]),
        (edit(["entries", 1, "accuracy"], 0.6), ["entries[1] (b)", "Pareto"]),
        (edit(["entries", 1, "latency_ms"], {"median": 0.5, "p95": 0.6}), ["entries[1] (b)"]),
        (edit(["entries", 1, "latency_ms"], {"median": 2.0, "p95": 1.0}), ["p95"]),
        (edit(["entries", 1, "alpha_ms"], 1.5), ["alpha_ms + beta_ms"]),
        (edit(["entries", 1, "id"], "a"), ["not unique"]),
        (edit(["entries", 0, "accuracy_source"], "guessed"), ["accuracy_source"]),
        (edit(["entries", 1, "macs"], 10**400), [": line ", "is no number: it has 401 digits"]),
        (edit(["entries", 1, "params"], 2**63), ["entries[1] (b).params = 9223372036854775808"]),
        (edit(["entries", 1, "alpha_ms"], 10**400), [": line ", "it has 401 digits"]),
        (edit(["entries", 1, "threads"], 0), ["entries[1] (b).threads = 0", "1..255"]),
        (edit(["entries", 1, "threads"], 256), ["entries[1] (b).threads = 256"]),
        (edit(["entries", 1, "cluster"], "gpu"), ["entries[1] (b).cluster = 'gpu'", "cpu, such as cpu0"]),
        (
            lambda data: data.update(processor="gpu") or data["entries"][1].update(cluster="gpu"),
            ["entries[1] (b).cluster = 'gpu' is not allowed on processor gpu"],
        ),
        (edit(["entries", 1, "cluster"], "big"), ["entries[1] (b).cluster = 'big'"]),
        (edit(["entries", 1, "id"], ""), ["entries[1].id = ''", "a name without /"]),
        (edit(["entries", 1, "id"], "a/b"), ["entries[1].id = 'a/b'", "a name without /"]),
        (edit(["reference_frequencies_hz", "cpu0"], 10**400), [": line ", "it has 401 digits"]),
        (edit(["reference_frequencies_hz", "cpu"], 1), ["reference_frequencies_hz.cpu:", "cpu<number>, gpu"]),
        (edit(["reference_frequencies_hz", ""], 1), ["reference_frequencies_hz.:", "cpu<number>, gpu"]),
        *(
            (edit(["bn_statistics"], {"file": name, "sha256": "0"}), [f"bn_statistics.file = {name!r}"])
            for name in ("", "..", "/etc/passwd", "../s.safetensors", "a/s.safetensors", "s/")
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_key_and_reason(tmp_path, change, words):
    data = msgspec.to_builtins(library())
    change(data)
    path = tmp_path / "l.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(LibraryError) as error:
        load_library(path)
    for word in (*words, str(path)):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[", "a: {b", "\x00", "entries: 3"])
def test_a_corrupt_file_is_one_line(tmp_path, text):
    path = tmp_path / "l.yaml"
    path.write_text(text)
    with pytest.raises(LibraryError) as error:
        load_library(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_library_for_other_weights_is_refused(tmp_path):
    weights = load_weights(SPACE, share_file(*DEMO_WEIGHTS))
    save_library(tmp_path / "l.yaml", library())
    with pytest.raises(LibraryError, match="made for other weights"):
        load_library(tmp_path / "l.yaml", weights)


def test_a_library_without_a_digest_fits_any_weights_of_its_space(tmp_path):
    weights = load_weights(SPACE, share_file(*DEMO_WEIGHTS))
    save_library(tmp_path / "l.yaml", msgspec.structs.replace(library(), weights_sha256=None))
    assert load_library(tmp_path / "l.yaml", weights).weights_sha256 is None


def test_shares_and_widths_of_resnet_survive_the_file(tmp_path):
    resnet = load_space("ofa_resnet50")
    config = resnet.random(np.random.default_rng(0))
    one = msgspec.structs.replace(entry("a", 1.0, 0.7), config=config.to_dict())
    own = msgspec.structs.replace(library(one), space=resnet.name)
    save_library(tmp_path / "l.yaml", own)
    read = load_library(tmp_path / "l.yaml")
    assert read == own and read.config(read.entries[0]) == config


def test_damaged_statistics_are_refused(tmp_path):
    own = save_statistics(
        tmp_path / "s.safetensors", {"a": {"first_conv.bn.running_mean": np.zeros(8, np.float32)}}
    )
    with_statistics = msgspec.structs.replace(library(), bn_statistics=own)
    read = load_statistics(tmp_path / "l.yaml", with_statistics)
    assert read["a"]["first_conv.bn.running_mean"].shape == (8,)
    (tmp_path / "s.safetensors").write_bytes(b"other")
    with pytest.raises(LibraryError, match="sha256"):
        load_statistics(tmp_path / "l.yaml", with_statistics)
    (tmp_path / "s.safetensors").unlink()
    with pytest.raises(LibraryError, match="cannot be read"):
        load_statistics(tmp_path / "l.yaml", with_statistics)


points = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), min_size=1, max_size=40)


@given(points)
def test_pareto_front_is_what_no_point_dominates(values):
    entries = [entry(str(i), *value) for i, value in enumerate(values)]
    front = pareto_front(entries)
    for before, after in pairwise(front):
        assert after.latency_ms.median > before.latency_ms.median and after.accuracy > before.accuracy
    for e in entries:
        assert any(f.latency_ms.median <= e.latency_ms.median and f.accuracy >= e.accuracy for f in front)


@given(points, st.floats(0.01, 200))
def test_best_within_never_exceeds_the_budget_unless_nothing_fits(values, budget):
    own = library(*pareto_front([entry(str(i), *value) for i, value in enumerate(values)]))
    best = own.best_within(budget)
    if best.latency_ms.median > budget:
        assert best is own.entries[0]
    else:
        assert all(e.accuracy <= best.accuracy for e in own if e.latency_ms.median <= budget)


def test_measure_interleaves_and_leaves_out_the_warm_up():
    now, calls = [0], []

    def runner(name: str, cost_ns: int):
        def run() -> None:
            calls.append(name)
            now[0] += cost_ns

        return run

    runners = {"a": runner("a", 1_000_000), "b": runner("b", 3_000_000)}
    times = measure(runners, rounds=4, warm_up=2, clock=lambda: now[0])
    assert calls == ["a", "b"] * 6
    assert times["a"].tolist() == [1.0] * 4 and times["b"].tolist() == [3.0] * 4


# --- the library that the package ships ---------------------------------------------------------


def test_the_demo_library_keeps_its_promises():
    weights = load_weights(SPACE, share_file(*DEMO_WEIGHTS))
    own = load_library(share_file(*DEMO_LIBRARY), weights)
    assert len(own.entries) >= 8
    assert own.entries[0].accuracy >= 0.70
    assert own.entries[-1].accuracy - own.entries[0].accuracy >= 0.04
    assert own.entries[-1].latency_ms.median >= 3 * own.entries[0].latency_ms.median
    assert len(weights.labels) >= 20
    assert share_file(*DEMO_WEIGHTS).stat().st_size <= 10e6


def test_measured_accuracy_is_what_the_file_says():
    """A few hundred fresh pictures: within sampling error of the file's figure, far from another net's."""
    from demo_pictures import Pictures

    from dynofa_ros.application.networks import SubnetKey

    networks = Networks.load("", "", "onnxruntime")
    own = networks.libraries["cpu"]
    pictures = Pictures(seed=99, number=300)
    for e in (own.entries[0], own.entries[-1]):
        network = networks.prepare(SubnetKey("cpu", e.id))
        logits = np.concatenate([network.run(i[None]) for i in pictures.at(network.input_shape[-1])])
        measured = float((logits.argmax(1) == pictures.labels).mean())
        deviation = (e.accuracy * (1 - e.accuracy) / pictures.number) ** 0.5
        assert abs(measured - e.accuracy) < 3.5 * deviation, (e.id, measured, e.accuracy)


def sized(of: Entry, fixed_share: float | None, reference_size: float | None) -> Entry:
    return msgspec.structs.replace(of, fixed_share=fixed_share, reference_size=reference_size)


def test_a_law_of_the_size_is_kept_and_published(tmp_path):
    plain = library()
    own = msgspec.structs.replace(plain, entries=tuple(sized(e, 0.25, 10.0) for e in plain.entries))
    save_library(tmp_path / "l.yaml", own)
    assert load_library(tmp_path / "l.yaml") == own
    assert [(e.fixed_share, e.reference_size) for e in own.subnet_entries()] == [(0.25, 10.0)] * 2
    assert [e.reference_size for e in plain.subnet_entries()] == [0.0] * 2
    save_library(tmp_path / "plain.yaml", plain)
    assert "reference_size" not in (tmp_path / "plain.yaml").read_text()


@pytest.mark.parametrize(
    ("share", "size", "reason"),
    [
        (0.2, None, "fixed_share and reference_size must both be there, or neither"),
        (None, 10.0, "fixed_share and reference_size must both be there, or neither"),
        (1.2, 10.0, "fixed_share = 1.2 is not allowed: it must be in 0..1"),
        (0.2, 0.0, "reference_size = 0.0 is not allowed"),
    ],
)
def test_half_a_law_is_refused(share, size, reason):
    own = library()
    with pytest.raises(LibraryError, match=reason):
        check_library(msgspec.structs.replace(own, entries=tuple(sized(e, share, size) for e in own.entries)))
