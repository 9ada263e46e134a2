"""What discovery finds on a computer: clock domains, power rails, temperature zones, limits set by others.

Frequencies in Hz. Unknown is None, an empty tuple or an empty text, with the reason next to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynofa_ros.messages import FrequencyBand


@dataclass(frozen=True)
class ClockDomain:
    """One clock with its files.

    ``kind``: ``cpufreq``, ``devfreq`` or ``emc`` (Tegra memory clock in debugfs). ``frequencies_hz`` is the
    table, ascending, empty if the kernel shows none. A number in a file times ``unit_hz`` is Hz. ``cpus`` of
    a CPU domain, online or not. ``min_path`` and ``max_path`` hold the limits in force; ``current_path`` the
    clock. For kind ``emc`` they are the limits of the hardware, and a 1 in ``lock_path`` locks the clock to
    what is written to ``rate_path``. ``hardware_min_hz`` and ``hardware_max_hz``: None if unknown.
    ``readable``: the clock can be read. ``writable``: both limits can be written (judged by permissions,
    nothing was written). ``reason``: what cannot be done and why. ``load_path``: busy share, or empty.
    ``turbo``: the top of the table stands for whatever the chip reaches.
    """

    name: str
    kind: str
    directory: str
    min_path: str
    max_path: str
    current_path: str
    frequencies_hz: tuple[int, ...] = ()
    unit_hz: int = 1
    cpus: tuple[int, ...] = ()
    governor_path: str | None = None
    hardware_min_hz: int | None = None
    hardware_max_hz: int | None = None
    readable: bool = False
    writable: bool = False
    reason: str = ""
    lock_path: str | None = None
    rate_path: str | None = None
    load_path: str | None = None
    turbo: bool = False

    @property
    def least_hz(self) -> float:
        """A lower reading says nothing: Xavier and Orin count cycles, and read almost 0 near idle."""
        return 0.9 * (self.hardware_min_hz or 0) if self.kind == "cpufreq" else 0.0


@dataclass(frozen=True)
class Rail:
    """One power sensor with its files.

    ``kind`` says how power comes about: ``iio`` and ``hwmon`` from ``power_path`` (times ``power_unit_w``)
    or, without one, from ``voltage_path`` (mV) x ``current_path`` (mA); ``rapl`` from the growth of
    ``energy_path`` (uJ), which starts again after ``energy_range_uj``. A total rail contains others.
    """

    name: str
    kind: str
    is_total: bool = False
    power_path: str | None = None
    power_unit_w: float = 1e-3
    voltage_path: str | None = None
    current_path: str | None = None
    energy_path: str | None = None
    energy_range_uj: int | None = None
    readable: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Zone:
    """One temperature sensor; its file holds millidegrees Celsius."""

    name: str
    path: str
    readable: bool = True
    reason: str = ""


@dataclass(frozen=True)
class ThrottleSign:
    """A file that is not 0 while something holds clocks down; ``kind`` is ``thermal`` or ``power``.

    ``counts``: the file counts events instead; something holds clocks down while it grows.
    """

    kind: str
    path: str
    counts: bool = False


@dataclass(frozen=True)
class PowerMode:
    """The nvpmodel mode in force. A cap may lie between two clocks of the table; 0 = none.

    ``lost``: settings that no clock found has a file for, each with the paths that were looked for.
    """

    number: int
    name: str
    caps: tuple[FrequencyBand, ...]
    lost: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"nvpmodel mode {self.name or self.number}"

    def cap(self, domain: str) -> FrequencyBand:
        """The limits of one domain."""
        return next((cap for cap in self.caps if cap.domain == domain), FrequencyBand(domain, 0, 0))


@dataclass(frozen=True)
class Inventory:
    """Everything that was found. ``board`` is empty if unknown.

    ``identities``: what the computer calls itself, from the most to the least specific: the entries of
    ``compatible`` and the ``model`` of its device tree, the product name of its DMI. An entry that joins a
    carrier board and a module by ``+`` is followed by that of the module alone.
    ``total_rails``: the rails whose sum is the power of the module (empty = unknown). ``processors``:
    ``cpu``, ``gpu``, ``npu`` that the hardware has. ``clocks_pinned``: every clock has min == max, as
    jetson_clocks leaves it. ``unsettled``: a file answered with an error that passes, so that a later search
    may find more. ``unsupported``: what is missing, each with the reason. ``notes``: facts for the
    reader (power mode, pinned clocks, CPUs this process may use, accelerators).
    """

    board: str
    domains: tuple[ClockDomain, ...]
    rails: tuple[Rail, ...]
    zones: tuple[Zone, ...]
    unsupported: tuple[str, ...]
    notes: tuple[str, ...]
    processors: tuple[str, ...]
    total_rails: tuple[str, ...] = ()
    throttle_signs: tuple[ThrottleSign, ...] = ()
    power_mode: PowerMode | None = None
    clocks_pinned: bool = False
    identities: tuple[str, ...] = ()
    unsettled: bool = False
