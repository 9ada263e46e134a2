"""Messages and bytes per second of each topic of a recorded run, and of several such robots in one domain.

dynofa demo --out FOLDER                             # real nodes over DDS, recorded
python tools/measure_bandwidth.py FOLDER [--robots 1 4 16]

Bytes are those of the serialised messages. Each goes once to every computer that has a subscriber; headers of
RTPS, UDP and IP add about 100 bytes to each, and acknowledgements of reliable topics about as many packets.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from dynofa_ros.recording.bag import open_bag
from dynofa_ros.topics import DEMO

PACKET = 100  # bytes of headers


def totals(path: Path) -> tuple[float, Counter[str], Counter[str]]:
    """(seconds, messages by topic, bytes by topic) of a recording, without the topics of the demo alone."""
    messages: Counter[str] = Counter()
    size: Counter[str] = Counter()
    first = last = 0
    with open_bag(path) as bag:
        for connection, time_ns, data in bag.messages():
            first, last = first or time_ns, time_ns
            if f"/{DEMO}/" not in connection.topic:
                messages[connection.topic] += 1
                size[connection.topic] += len(data)
    return 1e-9 * (last - first), messages, size


def main() -> int:
    """Print the tables; exit status 1 for a recording without time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path, help="bag, or folder that holds one")
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    seconds, messages, size = totals(options.recording)
    if seconds <= 0.0:
        print("the recording holds no time", file=sys.stderr)
        return 1
    print(f"{seconds:.1f} s\n\n| topic | messages/s | mean bytes | kB/s |\n|---|---|---|---|")
    for topic, count in messages.most_common():
        mean, rate = size[topic] / count, 1e-3 * size[topic] / seconds
        print(f"| {topic} | {count / seconds:.2f} | {mean:.0f} | {rate:.2f} |")
    per_s, kb_per_s = messages.total() / seconds, 1e-3 * size.total() / seconds
    print("\n| robots | messages/s | kB/s serialised | Mbit/s with headers |\n|---|---|---|---|")
    for robots in options.robots:
        mbit = 8e-3 * (kb_per_s + 1e-3 * PACKET * per_s) * robots
        print(f"| {robots} | {per_s * robots:.0f} | {kb_per_s * robots:.1f} | {mbit:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
