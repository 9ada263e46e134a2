"""S2, S4, S5, S7 and S9 to S12: several applications on shared processors, heat, faults, a transformer."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import msgspec

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.scenarios.parts import (
    MODE_10W,
    MODE_15W,
    MODE_CAPPED,
    OVERHEAD_MS,
    ambitious,
    pair,
    targets,
    vision,
)
from dynofa_ros.evaluation.scenarios.translation import translation_library
from dynofa_ros.manager.types import AppTargets, Parameters
from dynofa_ros.simulation.scene import (
    CONTENDED,
    App,
    Event,
    Fault,
    Load,
    NewMode,
    NewParameters,
    Reserved,
    Scene,
    Surroundings,
)


def s2(board: Board) -> list[Scene]:
    """Two models at once, as in the paper."""

    def two(rate: float, latency_ms: float, processor: str) -> tuple[App, ...]:
        names = ("left", "right")
        return tuple(vision(targets(name, rate, latency_ms, 0.76), processor) for name in names)

    on_cpu, on_gpu = two(1.0, 1000.0, "cpu"), two(6.0, 160.0, "gpu")
    slow = tuple(replace(app, start="c13_r208") for app in two(0.5, 2000.0, "cpu"))
    base = Scene(
        name="S2",
        title="two applications, on the CPU unless somebody moves them, 1 Hz",
        board=board,
        apps=on_cpu,
        duration_s=60.0,
        feasible=((1.0, 60.0),),
        notes=("no nvpmodel mode: six cores at up to 1.9 GHz, the clock of the CPU library",),
    )
    on_gpu = tuple(replace(app, movable=False) for app in on_gpu)
    mixed = (on_gpu[0], replace(on_cpu[1], movable=False))
    return [
        base,
        replace(
            base,
            name="S2 half",
            title="two applications, on the CPU unless somebody moves them, 0.5 Hz, deadline 2 s",
            apps=slow,
            notes=(
                *base.notes,
                "so slow that a static sub-network holds the deadline on the CPU and energy can be compared: "
                "its policies run the smallest that has the accuracy (c13_r208)",
            ),
        ),
        replace(base, name="S2 gpu", title="two applications fixed to the GPU, 6 Hz", apps=on_gpu),
        replace(base, name="S2 fixed", title="one application fixed to the GPU, one to the CPU", apps=mixed),
    ]


def s4(board: Board) -> list[Scene]:
    """Caps on clocks, and on power."""
    modes = (NewMode(15.0, MODE_10W), NewMode(35.0, MODE_CAPPED), NewMode(45.0, MODE_15W))
    base = Scene(
        name="S4",
        title="nvpmodel goes from 15 W to 10 W, then the GPU is capped",
        board=board,
        apps=pair(),
        duration_s=60.0,
        timeline=modes,
        mode=MODE_15W,
        feasible=((1.0, 60.0),),
        steps=tuple(m.at_s for m in modes),
        notes=("the accuracies of the applications (targets 78 and 77 %, floors 74 %) were chosen here",),
    )
    caps_w = (6.2, 5.6, inf)
    power = tuple(
        NewParameters(mode.at_s, Parameters(power_cap_w=cap_w))
        for mode, cap_w in zip(modes, caps_w, strict=True)
    )
    capped = replace(
        base,
        name="S4 watts",
        title="a power cap of 6.2 W, then 5.6 W",
        apps=ambitious(pair()),
        timeline=power,
        notes=(
            "nvpmodel caps clocks; this variant caps watts and was added here, with applications that want "
            "the best (floors 74 %): in the mean 6.5 W without a cap and 4.6 W at the floors; 100 ms in "
            "which both run take about 1 W more, and the cap holds for these",
        ),
    )
    return [base, capped]


def s5(board: Board) -> list[Scene]:
    """Heat."""
    apps = tuple(
        vision(targets(name, rate, 200.0, 0.79, 0.74, priority))
        for name, rate, priority in (("front", 7.0, 0), ("left", 7.0, 1), ("right", 7.0, 2))
    )
    return [
        Scene(
            name="S5",
            title="heat: 45 C around, then the fan sticks",
            board=board,
            apps=apps,
            duration_s=300.0,
            timeline=(
                Surroundings(30.0, 45.0),
                Surroundings(60.0, 45.0, 4.0),
                Surroundings(240.0, 45.0, 1.0),
            ),
            parameters=Parameters(temperature_limit_c=85.5),
            temperature_c=50.0,
            mode=MODE_15W,
            feasible=((1.0, 30.0),),
            steps=(30.0, 60.0, 240.0),
            notes=(
                "the applications were chosen here: what they ask for keeps GPU and NPU busy",
                "the board has been at work before: 50 C at the start; a stuck fan multiplies its thermal "
                "resistance by four: guess",
            ),
        )
    ]


def _crowd(arrive_s: float, leave_s: float, leave_every_s: float) -> tuple[App, ...]:
    """Eight applications of three classes."""
    rates = (10.0, 5.0, 5.0, 2.0, 2.0, 1.0, 1.0, 0.5)
    classes = (0, 0, 1, 1, 1, 2, 2, 2)
    return tuple(
        vision(
            targets(f"app{n}", rate, min(800.0, 1000.0 / rate), 0.78, 0.74, priority),
            from_s=arrive_s * n,
            until_s=leave_s + leave_every_s * n,
        )
        for n, (rate, priority) in enumerate(zip(rates, classes, strict=True))
    )


def s7(board: Board) -> list[Scene]:
    """Applications come and go."""
    apps = _crowd(8.0, 70.0, 5.0)
    return [
        Scene(
            name="S7",
            title="eight applications arrive one by one and leave",
            board=board,
            apps=apps,
            duration_s=120.0,
            mode=MODE_15W,
            feasible=((1.0, 24.0),),
            steps=(*(a.from_s for a in apps[1:]), *(a.until_s for a in apps)),
            notes=("deadlines (one period, at most 0.8 s) and accuracies were chosen here",),
        )
    ]


def s9(board: Board) -> list[Scene]:
    """More than fits."""
    return [
        Scene(
            name="S9",
            title="overload: eight applications, then a background load on the GPU",
            board=board,
            apps=_crowd(0.0, 100.0, 0.0),
            duration_s=60.0,
            timeline=(Load(20.0, "gpu", 0.3, 0.5), Load(40.0, "gpu", 0.0, 0.0)),
            mode=MODE_15W,
            feasible=(),
            steps=(20.0, 40.0),
            notes=("deadlines, accuracies and the utilisation of the load, 30 %, were chosen here",),
        )
    ]


def s10(board: Board) -> list[Scene]:
    """Telemetry and actuators that fail."""
    noisy = msgspec.structs.replace(
        board, sensors=msgspec.structs.replace(board.sensors, noise_share=0.05, lag_s=0.1)
    )
    faults: tuple[Event, ...] = (
        Fault(30.0, 33.0, "frozen_monitors"),
        Fault(60.0, 65.0, "no_temperature"),
        Fault(80.0, 85.0, "ignored_clocks"),
        Fault(100.0, 102.0, "manager_paused"),
    )
    return [
        Scene(
            name="S10",
            title="contended noise, and telemetry that fails",
            board=board,
            real_board=noisy,
            apps=pair(),
            duration_s=120.0,
            timeline=faults,
            mode=MODE_15W,
            noise=CONTENDED,
            feasible=((1.0, 120.0),),
        )
    ]


def s11(board: Board) -> list[Scene]:
    """A processor is lost for a while."""
    apps = (
        vision(targets("front", 5.0, 200.0, 0.78, 0.74)),
        vision(targets("side", 2.0, 400.0, 0.77, 0.74, priority=1)),
    )
    return [
        Scene(
            name="S11",
            title="the GPU is reserved for somebody else",
            board=board,
            apps=apps,
            duration_s=60.0,
            timeline=(Reserved(15.0, 30.0, "gpu"),),
            mode=MODE_15W,
            feasible=((1.0, 60.0),),
            steps=(15.0, 30.0),
            notes=(
                "the applications were chosen here; while the GPU is reserved they withdraw its "
                "sub-networks from their libraries, and what stays on it takes four times as long",
            ),
        )
    ]


def s12(board: Board) -> list[Scene]:
    """A second kind of network."""
    reference = (("gpu", board.domains["gpu"].frequencies_hz[-1]),)
    talk = AppTargets("translation", 1600.0, 1.0, 0.9, 0.2, 0.05, 1)
    translation = App(
        "translation",
        talk,
        translation_library("gpu", reference),
        poisson=True,
        overhead_ms=OVERHEAD_MS,
    )
    loads = ((30.0, 0.3), (60.0, 0.0), (90.0, 0.3))
    return [
        Scene(
            name="S12",
            title="vision and translation, under background load",
            board=board,
            apps=(vision(targets("vision", 8.0, 120.0, 0.78, 0.74)), translation),
            duration_s=120.0,
            timeline=tuple(Load(at_s, "gpu", 0.3 if slow else 0.0, slow) for at_s, slow in loads),
            mode=MODE_15W,
            feasible=((1.0, 120.0),),
            steps=tuple(at_s for at_s, _ in loads),
            notes=(
                "translation: five sub-transformers over the range that Dynamic-HAT published for the GPU of "
                "a Jetson Nano, not of this board; BLEU by HAT, accuracy = BLEU / 28.5",
                "sentences come at random, 0.2 per second",
            ),
        )
    ]
