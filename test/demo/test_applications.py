"""What demos are made of: their applications, sources and nodes, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="texts need the package tokenizers")

from dynofa_ros.application.networks import demo_library, demo_weights
from dynofa_ros.application.task import IMAGE, TEXT, tasks
from dynofa_ros.cli.demo import TASKS
from dynofa_ros.cli.main import main
from dynofa_ros.demo.applications import DEFAULT_TASKS, DEMOS, DemoApp, demo_apps
from dynofa_ros.demo.phases import PHASES, FivePhases
from dynofa_ros.demo.setup import DemoOptions, Measured, node_specs, source_specs
from dynofa_ros.library.library import load_library
from dynofa_ros.paths import share_file

APPS = {(app.name, app.task): app for apps in DEMOS.values() for app in apps}


def specs(*tasks: str, **options: object) -> dict[str, dict[str, object]]:
    """Parameters of every node of a demo, by its full name."""
    chosen = DemoOptions(Path("out"), **options)  # type: ignore[arg-type]
    apps = demo_apps(tasks, chosen.apps, chosen.rate_hz)
    setup = FivePhases(apps, 60.0).setup
    measured = {app.name: Measured(Path("library.yaml"), 2.0) for app in apps}
    found: dict[str, dict[str, object]] = {}
    for spec in (*node_specs(chosen, apps, setup, None, measured), *source_specs(chosen, apps, setup)):
        nodes = spec.nodes or {spec.name: spec.parameters}
        found |= {f"{spec.namespace}/{name}": dict(own) for name, own in nodes.items()}
    return found


def test_every_task_has_a_demo() -> None:
    assert set(TASKS) == set(DEMOS) == {*tasks(IMAGE), *tasks(TEXT)}
    assert all(app.task == task for task, apps in DEMOS.items() for app in apps)
    assert len(DEFAULT_TASKS) == 2, "two kinds of application under one manager"


@pytest.mark.parametrize("app", APPS.values(), ids=lambda app: app.name)
def test_the_deadline_of_an_application_fits_its_library(app: DemoApp) -> None:
    """The largest sub-network fits in the steady phase, a smaller one with the tighter target."""
    space, name = app.files
    library = load_library(share_file(*demo_library(name)))
    assert library.space == space and share_file(*demo_weights(space)).is_file()
    slowest = app.largest_ms
    fastest = slowest * library.entries[0].latency_ms.median / library.entries[-1].latency_ms.median
    tightest = min(phase.latency_share for phase in PHASES) * app.latency_target_ms
    assert fastest < tightest and slowest < app.latency_target_ms
    assert slowest / 1e3 * app.rate_hz < 0.8, "the queue would grow"


def test_the_mixed_demo_has_a_source_for_each_kind() -> None:
    found = specs("classification", "translation")
    front, translator = DEMOS["classification"][0], DEMOS["translation"][0]
    assert "language/parser" not in found, "the first application of each"
    assert {front.node, translator.node, front.source.node, translator.source.node} < set(found)
    assert (
        found[front.source.node]["rate_hz"] == front.rate_hz and found[front.source.node]["apps"] == "front"
    )
    assert found["language/translator"]["target"] == "de"
    assert found["language/translator"]["latency_target_ms"] == translator.latency_target_ms
    assert all(found[app.node]["emulate_dvfs"] for app in (front, translator))


def test_texts_are_answered_in_one_process() -> None:
    apps = demo_apps(["translation"], None, 2.0)
    chosen = DemoOptions(Path("out"))
    measured = {app.name: Measured(Path("library.yaml"), 2.0) for app in apps}
    made = node_specs(chosen, apps, FivePhases(apps, 60.0).setup, None, measured)
    (language,) = [spec for spec in made if spec.namespace == "language"]
    assert {name: p["target"] for name, p in language.nodes.items()} == {
        "translator": "de",
        "parser": "intent",
    }
    assert {p["rate_hz"] for p in language.nodes.values()} == {2.0}


def test_a_number_of_applications_is_one_of_cameras() -> None:
    found = specs("classification", apps=2)
    assert found["demo/camera"]["apps"] == "front,rear" and {"perception/front", "perception/rear"} < set(
        found
    )


def test_a_rate_is_that_of_the_first_kind() -> None:
    found = specs("classification", "translation", rate_hz=7.0)
    assert (found["demo/camera"]["rate_hz"], found["demo/speaker"]["rate_hz"]) == (
        7.0,
        DEMOS["translation"][0].rate_hz,
    )


@pytest.mark.parametrize(
    ("tasks", "argument", "reason"),
    [
        ("translation", "--apps", "--apps is about a camera"),
        ("translation", "--images", "--images is about a camera"),
        (
            "detection,classification",
            "--bag",
            "--bag is about a camera: it does not go with --task detection,",
        ),
        ("detection,classification", "--apps", "--apps is about a camera"),
        ("segmentation", "--apps", "--task must be of classification, detection, translation"),
        ("", "--apps", "--task must be of classification, detection, translation"),
    ],
)
def test_tasks_that_cannot_be(
    tasks: str, argument: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--task", tasks, argument, "2"]) == 2
    assert reason in capsys.readouterr().err
