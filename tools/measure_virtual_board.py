#!/usr/bin/env python3
"""The same robot on a virtual board and on the simulated device, while others change the board under it.

    python tools/measure_virtual_board.py [--board TREE] [--seconds 600] [--seed 0] [--json OUT]

One script is played on both: another power mode every 20 s; a second program that lowers the maximum of a
clock and raises it again; hotplug of a cluster of CPUs; heat until the SoC throttles. Applications, their
random numbers, the manager and the simulated SoC are the same. Between manager and SoC stand on one side the
kernel's files and the real backend (discovery, sensors, writer, clock commands), on the other the simulated
backend. Everything runs in event time: the load of this computer changes nothing, and the same
command gives the same figures.

Exit code 1 if the misses of the two differ by more than one point, if a limit stays above the power mode for
longer than 2 s, or if one is wrong at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ, Board, cluster_cpus
from dynofa_ros.device.command_control import ClockControl
from dynofa_ros.device.device import Device
from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import BLANK, SysFiles
from dynofa_ros.device.simulated.power_modes import mode_limits
from dynofa_ros.device.virtual.kernel import VirtualKernel, play
from dynofa_ros.device.virtual.tree import Tree, load_tree, mode_caps, tree_names
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.scenarios import vision_library
from dynofa_ros.evaluation.score import miss_percent
from dynofa_ros.files import natural
from dynofa_ros.latency import processor_of
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DvfsState,
    FrequencyBand,
    Header,
)
from dynofa_ros.simulation.plant import Plant
from dynofa_ros.simulation.scene import App, Scene
from dynofa_ros.simulation.simulator import TELEMETRY_S, Simulation

MODES = {
    "xavier_nx_jetpack4": ["MODE_15W_6CORE", "MODE_10W_4CORE", "MODE_10W_2CORE", "MODE_15W_2CORE"],
    "xavier_nx_jetpack5": ["MODE_15W_6CORE", "MODE_10W_4CORE", "MODE_20W_6CORE", "MODE_15W_4CORE"],
    "orin_nano_jetpack6": ["15W", "7W", "25W", "15W"],
}
PROCESSORS = ("cpu", "gpu")  # whose clocks every tree has files for
LIMITED = ("cpu0", "gpu")  # by the second program
MODE_S = 20.0
ROOM_C, HEATER_C, HEATED_S = 25.0, 60.0, 60.0  # the heater is above the trip: it throttles within a minute
LONGEST_OUTSIDE_S, LARGEST_DIFFERENCE = 2.0, 1.0
DISCOVERY_TICKS = 5  # of telemetry: as the device node, every 0.5 s
RELEASED_S = 2.0  # after the manager has gone

Script = Sequence[tuple[float, str]]


def script(board: Board, modes: Sequence[str], seconds: float, seed: int) -> Script:
    """What others do to the board: (second, order of `device.virtual.kernel.USAGE`).

    The last 20 s are quiet. Limits are lowered and raised within one mode, to what that mode allows.
    """
    chance, orders = random.Random(seed), []
    last = max(1, round(seconds / MODE_S)) - 1
    for number in range(last + 1):
        start_s, mode = number * MODE_S, modes[number % len(modes)]
        orders.append((start_s, f"mode {mode}"))
        if number == last:
            break
        limits = mode_limits(board, mode)
        if number % 3 == 1:
            domain = chance.choice(LIMITED)
            *below, top_hz = limits[domain].frequencies_hz
            low_hz = chance.choice(below[:6])
            at_s = start_s + chance.uniform(3.0, 8.0)
            orders.append((at_s, f"limit {domain} {low_hz}"))
            orders.append((at_s + chance.uniform(3.0, 8.0), f"limit {domain} {top_hz}"))
        if number % 4 == 2:
            last_on = [limits[name].cpus for name in cluster_cpus(board) if limits[name].cpus][-1]
            cpus = [cpu for cpu in last_on if cpu]
            orders += [(start_s + 9.0, f"cpu {cpu} off") for cpu in cpus]
            orders += [(start_s + 13.0, f"cpu {cpu} on") for cpu in cpus]
        if number == last // 4:
            orders.append((start_s + 1.0, f"ambient {board.thermal.trip_c + HEATER_C:g}"))
            orders.append((start_s + 1.0 + HEATED_S, f"ambient {ROOM_C:g}"))
    return sorted(orders, key=lambda order: order[0])


def scene_of(tree: Tree, board: Board, mode: str, seconds: float) -> Scene:
    """Two applications on GPU or CPU and one on the CPU. No temperature limit: the SoC throttles first."""
    library = tuple(e for e in vision_library() if e.processor in PROCESSORS)

    targets = (
        AppTargets("front", 140.0, 0.77, 0.74, rate_hz=8.0, priority=2),
        AppTargets("side", 220.0, 0.77, 0.74, rate_hz=4.0, priority=1),
        AppTargets("rear", 2000.0, 0.76, 0.74, rate_hz=0.5),
    )
    front, side, rear = (App(own.app, own, library) for own in targets)
    apps = (front, side, replace(rear, mapping="cpu", movable=False))
    free = Parameters(temperature_limit_c=inf)
    return Scene("virtual board", tree.board, board, apps, seconds, parameters=free, mode=mode)


class KernelFiles(SysFiles):
    """What `SysFiles` offers, answered by a virtual kernel in this process: no folder, only its own time."""

    keeps_open = False

    def __init__(self, kernel: VirtualKernel) -> None:
        super().__init__(Path("/nowhere"))
        self.kernel = kernel

    def resolve(self, path: str) -> str:
        while link := next((x for x in self.kernel.links if f"{path}/".startswith(f"{x}/")), None):
            path = self.kernel.links[link] + path.removeprefix(link)
        return path

    def read(self, path: str) -> str:
        return self.kernel.read(self.resolve(path)).strip(BLANK)

    def write(self, path: str, text: str) -> None:
        self.kernel.write(self.resolve(path), text)

    def exists(self, path: str) -> bool:
        path = self.resolve(path)
        return path in self.kernel.paths() or bool(self.kernel.names(path))

    def names(self, path: str) -> list[str]:
        return sorted(self.kernel.names(self.resolve(path)), key=natural)

    def can_read(self, path: str) -> tuple[bool, str]:
        return (True, "") if self.exists(path) else (False, f"{path}: no such file")

    def can_write(self, path: str) -> tuple[bool, str]:
        may = self.kernel.writable(self.resolve(path))
        return (True, "") if may else (False, f"{path}: permission denied")


class BoardPlant(Plant):
    """The simulated board behind one of the backends; commands and states pass as in the device node.

    ``virtual``: behind the real one, with the kernel files of ``tree`` in between. ``folder``: its state.
    """

    def __init__(self, scene: Scene, seed: int, tree: Tree, folder: Path, *, virtual: bool) -> None:
        super().__init__(scene, seed, instant=False)
        self.tree = tree
        self.kernel: VirtualKernel | None = None
        self.backend: Device = self.device
        if virtual:
            self.device.set_mode(None)  # the limits of a mode are in the files
            self.kernel = VirtualKernel(tree, self.board, lambda: self.device.now_s, self.device)
            self.kernel.set_mode(scene.mode or tree.mode)
            files = KernelFiles(self.kernel)
            self.backend = SysfsDevice(
                files,
                allow_writes=True,
                backup=ClockBackup(files, folder),
                clock_s=lambda: self.device.now_s,
            )
        self.control = ClockControl(self.backend, 0.0)
        self.played_mode = scene.mode or ""

    def play(self, order: str, now_s: float) -> None:
        play(self.kernel or self.device, order)
        if order.startswith("mode "):
            self.played_mode = order.removeprefix("mode ")
        self._follow(now_s)

    def limits_hz(self, domain: str) -> tuple[int, int]:
        return (self.kernel or self.device).limits_hz(domain)

    def above_mode(self) -> dict[str, int]:
        """Domains whose maximum is above what the mode allows, with that maximum."""
        caps = {name: cap_hz for name, _, cap_hz in mode_caps(self.tree, self.board, self.played_mode)}
        highs = {name: self.limits_hz(name)[1] for name in caps}
        return {name: hz for name, hz in highs.items() if hz > caps[name] + FREQUENCY_TOLERANCE_HZ}

    def apply(self, bands: Sequence[FrequencyBand], governors: Any, now_s: float) -> None:
        super().apply((), governors, now_s)
        if bands:
            self.control.command(self.control.counts.taken + 1, bands, 0.0, now_s)
            self._bands.update({band.domain: band for band in bands})
            self._follow(now_s)

    def capabilities(self) -> DeviceCapabilities:
        return self.backend.capabilities()

    def states(self, now_ns: int, decision_id: int) -> DvfsState:
        return replace(self.control.state(), decision_id=decision_id, header=Header(now_ns))

    def telemetry(self, now_ns: int, broken_thermometers: bool) -> DeviceTelemetry:
        return replace(self.backend.read(), header=Header(now_ns))

    def _follow(self, now_s: float) -> None:
        self.device.advance(0.0, self._busy, self._load)
        self.settle(now_s)


class BoardSimulation(Simulation):
    """A run in which the script is played.

    ``outside_s``: longest time of a limit above the power mode. ``throttled_s``: time in which heat held a
    clock down. ``remarks``: what the states said, without numbers, and how often.
    """

    plant: BoardPlant

    def __init__(self, scene: Scene, seed: int, plant: BoardPlant, orders: Script) -> None:
        super().__init__(scene, ManagerPolicy(), seed, plant)
        self.outside_s = self.throttled_s = 0.0
        self.remarks: Counter[str] = Counter()
        self._orders = orders
        self._since_s: dict[str, float] = {}
        self._state: DvfsState | None = None
        self._ticks = 0

    def begin(self) -> None:
        super().begin()
        for at_s, order in self._orders:
            self._at(at_s, partial(self._play, order))

    def _play(self, order: str) -> None:
        self._change_clocks(partial(self.plant.play, order, self.now_s))

    def _tick(self) -> None:
        super()._tick()
        state, self._ticks = self.plant.control.state(), self._ticks + 1
        if state != self._state:
            self._state = state
            self._publish_clocks()
            self.remarks.update({re.sub("[0-9]+", "#", d.reason) for d in state.domains if d.reason})
        if self._ticks % DISCOVERY_TICKS == 0 and self.plant.capabilities() != self._capabilities:
            self._offer()
        self.throttled_s += TELEMETRY_S if self.plant.device.truth().throttled else 0.0
        above = self.plant.above_mode()
        self._since_s = {name: self._since_s.get(name, self.now_s) for name in above}
        self.outside_s = max([self.outside_s, *(self.now_s - since_s for since_s in self._since_s.values())])

    def left_wrong(self) -> dict[str, tuple[int, int]]:
        """After the manager has gone: maxima that are not what the mode allows, with what would be right."""
        self.plant.control.release()
        self.plant.device.advance(RELEASED_S)
        self.plant.control.state()
        domains = self.plant.capabilities().domains
        allowed = {
            d.domain: d.frequencies_hz[-1]
            for d in domains
            if processor_of(d.domain) in PROCESSORS and d.can_write
        }
        found = {name: self.plant.limits_hz(name)[1] for name in allowed}
        return {name: (hz, allowed[name]) for name, hz in found.items() if hz != allowed[name]}


def figures(tree: Tree, scene: Scene, orders: Script, seed: int, virtual: bool) -> dict[str, Any]:
    """One run: misses (%), energy, limits."""
    with tempfile.TemporaryDirectory() as folder:
        plant = BoardPlant(scene, seed, tree, Path(folder), virtual=virtual)
        simulation = BoardSimulation(scene, seed, plant, orders)
        run = simulation.run()
        wrong = simulation.left_wrong()
    frames = run.frames
    return {
        "frames": len(frames),
        "miss_percent": miss_percent(frames),
        "miss_by_application": {
            a.name: miss_percent([f for f in frames if f.app == a.name]) for a in scene.apps
        },
        "energy_j": run.samples[-1].energy_j,
        "throttled_s": simulation.throttled_s,
        "outside_mode_s": simulation.outside_s,
        "limits_left_wrong": wrong,
        "remarks": dict(simulation.remarks.most_common()),
    }


def compare(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Both backends under one script."""
    tree, board = load_tree(name)
    orders = script(board, MODES[name], seconds, seed)
    scene = scene_of(tree, board, MODES[name][0], seconds)
    both = {
        side: figures(tree, scene, orders, seed, virtual=side == "virtual")
        for side in ("simulated", "virtual")
    }
    difference = both["virtual"]["miss_percent"] - both["simulated"]["miss_percent"]
    return {
        "board": name,
        "seed": seed,
        "seconds": seconds,
        "script": orders,
        "difference": difference,
        **both,
    }


def holds(result: dict[str, Any]) -> bool:
    """What the exit code says."""
    virtual = result["virtual"]
    return (
        abs(result["difference"]) <= LARGEST_DIFFERENCE
        and virtual["outside_mode_s"] <= LONGEST_OUTSIDE_S
        and not virtual["limits_left_wrong"]
    )


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--board", choices=tree_names(), action="append", help="repeat for several; default all"
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, action="append", help="repeat for several; default 0")
    parser.add_argument("--json", type=Path, help="all figures, and the script")
    options = parser.parse_args()
    results = []
    for name in options.board or tree_names():
        for seed in options.seed or [0]:
            results.append(result := compare(name, options.seconds, seed))
            print(f"{name}, seed {seed}, {options.seconds:g} s, {len(result['script'])} orders of the script")
            for side in ("simulated", "virtual"):
                one = result[side]
                apps = ", ".join(f"{app} {miss:.2f}" for app, miss in one["miss_by_application"].items())
                wrong = ", ".join(one["limits_left_wrong"]) or "none"
                print(
                    f"  {side:9}  misses {one['miss_percent']:.2f} % ({apps})  energy {one['energy_j']:.0f} J"
                )
                print(
                    f"             throttled {one['throttled_s']:.0f} s  "
                    f"above the mode {one['outside_mode_s']:.1f} s  limits wrong at the end: {wrong}"
                )
            print(f"  misses differ by {result['difference']:+.2f} points", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0 if all(map(holds, results)) else 1


if __name__ == "__main__":
    sys.exit(main())
