"""Write docs/interfaces.md: topics, messages, parameters and commands, as the code declares them.

python tools/write_interfaces.py            # write the page
python tools/write_interfaces.py --check    # exit status 1 if the page is not what the code declares
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dynofa_ros.application.task import further_topics
from dynofa_ros.cli.main import make_parser
from dynofa_ros.nodes import device_parameters, language_node, manager_node, perception_parameters
from dynofa_ros.ros.parameters import ParameterSpec, allowed
from dynofa_ros.topics import DEMO, TOPICS, Topic

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "interfaces.md"
NODES = {
    "perception/<app>": perception_parameters.PARAMETERS,
    "language/<app>": language_node.PARAMETERS,
    "a program of yours (ManagedApplication)": perception_parameters.PROGRAM_PARAMETERS,
    "dynofa/manager": manager_node.PARAMETERS,
    "dynofa/device": device_parameters.PARAMETERS,
}
HEADER = """# Interfaces

Written by `python tools/write_interfaces.py` from the code; a test compares. Names of topics and nodes are
relative to the namespace of the robot: `namespace:=robot1` of the launch file, or `-r __ns:=/robot1`, puts it
in front of all.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _topic(topic: Topic) -> str:
    quality = "reliable" if topic.reliable else "best effort"
    quality += f", {'latched, ' * topic.latched}{topic.depth}"
    kind = topic.kind.removeprefix("dynofa_ros/msg/").replace("/msg/", "/")
    name = topic.name.replace("{app}", "<app>")
    return f"| `{name}` | {kind} | {quality} | {topic.sender} → {', '.join(topic.receivers)} |"


def topic_lines() -> Iterator[str]:
    """The table of topics; those of the demo alone last."""
    yield "\n## Topics\n"
    yield "Types without a package are those below. The number is the depth of the queue.\n"
    yield "| topic | type | QoS | from → to |\n|---|---|---|---|"
    yield from map(_topic, sorted(TOPICS, key=lambda topic: topic.name.startswith(DEMO)))
    yield "\nAlso, where the packages of these types are installed; the last two are made only while somebody"
    yield "subscribes to them.\n"
    yield "| topic | type | QoS | from → to |\n|---|---|---|---|"
    yield from map(_topic, further_topics())


def parameter_lines(node: str, specs: tuple[ParameterSpec, ...]) -> Iterator[str]:
    """The table of the parameters of a node."""
    yield f"\n### `{node}`\n"
    yield "| parameter | default | meaning | allowed |\n|---|---|---|---|"
    for spec in specs:
        name = f"`{spec.name}`" + " (start)" * (not spec.dynamic)
        default = f'`"{spec.default}"`' if isinstance(spec.default, str) else f"`{spec.default}`".lower()
        yield f"| {name} | {default} | {_cell(spec.description)} | {_cell(allowed(spec))} |"


def message_lines() -> Iterator[str]:
    """Every message file and action file as it is."""
    yield "\n## Messages\n"
    yield "Unknown numbers are NaN, unknown text is empty. Units are in the names of the fields."
    for path in (*sorted((ROOT / "msg").glob("*.msg")), *sorted((ROOT / "action").glob("*.action"))):
        yield f"\n### {path.stem}\n\n```\n{path.read_text().strip()}\n```"


def command_lines() -> Iterator[str]:
    """The help of every subcommand."""
    yield "\n## Commands\n"
    yield "Exit status: 0 = done, 1 = failed, 2 = bad usage. A failure is one line on stderr."
    os.environ["COLUMNS"] = "110"
    for parser in _parsers(make_parser()):
        text = re.sub(r"[ \t]+$", "", parser.format_help(), flags=re.MULTILINE)
        yield f"\n### {parser.prog}\n\n```\n{text}\n```"


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers without subcommands, in the order in which the help names them."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for inner in action.choices.values():
            yield from _parsers(inner)


def page() -> str:
    """The whole page."""
    lines = [HEADER.rstrip(), *topic_lines(), "\n## Parameters\n"]
    lines.append("`ros2 param describe` shows the same. Those marked (start) can only be set at start-up.")
    for node, specs in NODES.items():
        lines += parameter_lines(node, specs)
    lines += [*message_lines(), *command_lines()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/interfaces.md from the code.")
    parser.add_argument("--check", action="store_true", help="compare only")
    if parser.parse_args().check:
        if PAGE.read_text() == page():
            return 0
        print(
            f"{PAGE.relative_to(ROOT)} is out of date: run python tools/write_interfaces.py", file=sys.stderr
        )
        return 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
