"""Parameters of the nodes that run an application: of images, of texts, and of programs of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dynofa_ros.application.task import IMAGE, TEXT, tasks
from dynofa_ros.messages import MISS_TOLERANCE
from dynofa_ros.ros.images import SAMPLE_BITS
from dynofa_ros.ros.parameters import ParameterSpec, check, coerce
from dynofa_ros.supernet.registry import engine_names
from dynofa_ros.supernet.switching import CACHE_BYTES

TARGET_SPECS = (
    ParameterSpec(
        "latency_target_ms",
        33.0,
        "target from the receipt of an image to the publication of its result",
        unit="ms",
        minimum=1.0,
        maximum=10000.0,
    ),
    ParameterSpec(
        "accuracy_target",
        1.0,
        "accuracy wanted, a share; 1.0 = the best of the library",
        minimum=0.0,
        maximum=1.0,
    ),
    ParameterSpec("accuracy_floor", 0.0, "accuracy never to go below, a share", minimum=0.0, maximum=1.0),
    ParameterSpec("rate_hz", 15.0, "frames to answer per second", unit="Hz", minimum=0.1, maximum=240.0),
    ParameterSpec(
        "miss_tolerance",
        MISS_TOLERANCE,
        "share of due frames that may miss the target",
        minimum=0.0001,
        maximum=0.5,
    ),
    ParameterSpec(
        "priority", 0, "0 = most important; less important applications give way first", minimum=0, maximum=10
    ),
    ParameterSpec("paused", False, "answer no frames"),
)
TARGETS = tuple(spec.name for spec in TARGET_SPECS)
PIN = ParameterSpec("subnet_id", "", "pin one sub-network of the library; empty = managed")
PROCESSOR = ParameterSpec(
    "processor", "cpu", "processor to start on", choices=("cpu", "gpu", "npu"), dynamic=False
)
EMULATION = (
    ParameterSpec(
        "emulate_dvfs",
        False,
        "stretch inference to what it would take on the simulated device",
        dynamic=False,
    ),
    ParameterSpec(
        "emulated_slowdown",
        1.0,
        "how much slower the simulated device is than this machine, both at their top clock; without "
        "effect unless emulate_dvfs",
        minimum=1.0,
        maximum=1000.0,
        dynamic=False,
    ),
)
PROGRAM_PARAMETERS = (*TARGET_SPECS, PIN, PROCESSOR, *EMULATION)


def with_defaults(specs: Iterable[ParameterSpec], defaults: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """The same parameters with other defaults, by name. Raises ValueError for one that cannot be."""
    table = {spec.name: spec for spec in specs}
    for name, value in defaults.items():
        if name not in table:
            raise ValueError(f"default of {name}: no such parameter: there are {', '.join(table)}")
        if reason := check(table[name], value):
            raise ValueError(f"default of {reason}")
        table[name] = replace(table[name], default=coerce(table[name], value))
    return tuple(table.values())


def application_parameters(request: str, *own: ParameterSpec) -> tuple[ParameterSpec, ...]:
    """All that the node of an application with such requests has; ``own``: what only it has."""
    known = tasks(request)
    return (
        *TARGET_SPECS,
        PIN,
        ParameterSpec(
            "task",
            next(iter(known)),
            "what the application answers; as the weights were trained for",
            choices=tuple(known),
            dynamic=False,
        ),
        *(ParameterSpec(**vars(option)) for task in known.values() for option in task.options),
        ParameterSpec(
            "weights",
            "",
            "checkpoint (.safetensors or torch); empty = the demo supernet of the package",
            dynamic=False,
        ),
        ParameterSpec(
            "library",
            "",
            "library files, one per processor, comma-separated; empty = the demo's",
            dynamic=False,
        ),
        PROCESSOR,
        ParameterSpec(
            "engine", "onnxruntime", "what executes the network", choices=engine_names(), dynamic=False
        ),
        ParameterSpec(
            "cache_mb",
            CACHE_BYTES / 2**20,
            "weights of the sub-networks that are held ready, the library as far as it fits; an engine "
            "holds up to three times that",
            unit="MiB",
            minimum=0.0,
            maximum=65536.0,
            dynamic=False,
        ),
        *own,
        *EMULATION,
    )


TEXT_WORDS = {
    "latency_target_ms": "target from the receipt of a text to its answer",
    "rate_hz": "texts per second to expect; the manager learns how many come",
    "miss_tolerance": "share of texts that may miss the target",
    "paused": "answer no texts: they are refused",
}

PARAMETERS = application_parameters(
    IMAGE,
    ParameterSpec(
        "image_transport", "raw", "kind of image to subscribe", choices=("raw", "compressed"), dynamic=False
    ),
    ParameterSpec(
        "reliability",
        "auto",
        "of the subscription to images: 'auto' = as the camera offers; 'reliable' gets lost packets again",
        choices=("auto", "best_effort", "reliable"),
    ),
    ParameterSpec(
        "significant_bits",
        0,
        "bits in use in each 16-bit sample of mono16, rgb16 or bayer16 images: 8, 10, 12, 14 or 16; "
        "0 = learned from the images, the fewest that hold every sample seen",
        choices=(0, *SAMPLE_BITS),
        dynamic=False,
    ),
)
TEXT_DEFAULTS = {"latency_target_ms": 500.0, "rate_hz": 1.0, "miss_tolerance": 0.02, "cache_mb": 128.0}
TEXT_PARAMETERS = tuple(
    replace(spec, description=TEXT_WORDS.get(spec.name, spec.description))
    for spec in with_defaults(application_parameters(TEXT), TEXT_DEFAULTS)
)
