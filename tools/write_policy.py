"""Write config/security/dynofa.policy.xml: what each node may do, for SROS2, from the table of topics.

python tools/write_policy.py             # write the policy of one application, front
python tools/write_policy.py --check     # exit status 1 if it is another one
python tools/write_policy.py --app front --app rear --namespace robot1 --out my.policy.xml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from dynofa_ros.application.task import further_topics
from dynofa_ros.topics import (
    COMPRESSED_IMAGE,
    CORE,
    DIAGNOSTICS,
    IMAGE,
    LANGUAGE,
    PERCEPTION,
    TOPICS,
    TRANSLATE,
    Topic,
)

POLICY = Path(__file__).resolve().parents[1] / "config" / "security" / "dynofa.policy.xml"
VERSION = "0.2.0"  # of the layout, sros2/policy/schemas/policy.xsd
PARAMETER_SERVICES = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
)
LIFECYCLE_SERVICES = (
    "change_state",
    "get_available_states",
    "get_available_transitions",
    "get_state",
    "get_transition_graph",
)
SERVICES = (*LIFECYCLE_SERVICES, *PARAMETER_SERVICES, "get_type_description")
ROBOT = (*(topic for topic in TOPICS if topic.sender != "demo"), *further_topics())
SPOKEN = tuple(topic for topic in ROBOT if topic.name.startswith(LANGUAGE))
IMAGES = (IMAGE.kind, COMPRESSED_IMAGE.kind)
TEXT_TOPICS = tuple(topic for topic in ROBOT if topic.kind not in IMAGES)
Rule = tuple[str, str, Iterable[str]]  # kind of thing, what is allowed, names


def enclaves(
    apps: Iterable[str], namespace: str = "", texts: Iterable[str] = ()
) -> Iterator[tuple[str, str, str, list[Rule]]]:
    """(path of the enclave, namespace, node, rules) of every node of one robot.

    namespace: "" or "/robot1". texts: applications of the language node. Names of topics are full ones.
    """
    cameras, texts = tuple(apps), tuple(texts)
    apps = cameras + texts
    full = [f"{namespace}/{CORE}/manager", f"{namespace}/{CORE}/device"]
    full += [f"{namespace}/{PERCEPTION}/{app}" for app in cameras]
    full += [f"{namespace}/{LANGUAGE}/{text}" for text in texts]

    def rules(role: str, own: Iterable[str] = apps, topics: Iterable[Topic] = ROBOT) -> list[Rule]:
        def names(chosen: Iterable[Topic]) -> list[str]:
            spoken = tuple(text for text in own if text in texts)
            return [n for t in chosen for n in _names(t, spoken if t in SPOKEN else own, namespace)]

        sent = names(t for t in topics if t.sender == role)
        read = names(t for t in topics if role in t.receivers)
        return [("topic", "publish", sent), ("topic", "subscribe", read)]

    for role in ("manager", "device"):
        yield f"{namespace}/{CORE}/{role}", f"{namespace}/{CORE}", role, _node() + rules(role)
    simulated = [*rules("device"), *rules("simulated device", topics=TOPICS)]
    yield f"{namespace}/{CORE}/simulated_device", f"{namespace}/{CORE}", "device", _node() + simulated
    for text in texts:
        own = _node() + rules("language", (text,)) + rules("perception", (text,), TEXT_TOPICS)
        own.append(("action", "execute", [f"{namespace}/{TRANSLATE.format(app=text)}"]))
        yield f"{namespace}/{LANGUAGE}/{text}", f"{namespace}/{LANGUAGE}", text, own
    if texts:
        call = ("action", "call", [f"{namespace}/{TRANSLATE.format(app=text)}" for text in texts])
        yield (
            f"{namespace}/client",
            namespace or "/",
            "client",
            [_logging(), *rules("user", texts, SPOKEN), call],
        )
    for app in cameras:
        own = _node() + rules("perception", (app,))
        yield f"{namespace}/{PERCEPTION}/{app}", f"{namespace}/{PERCEPTION}", app, own
    yield f"{namespace}/camera", namespace or "/", "camera", [_logging(), *rules("camera", cameras)]
    reader = [n for t in TEXT_TOPICS for n in _names(t, texts if t in SPOKEN else apps, namespace)]
    yield f"{namespace}/reader", namespace or "/", "reader", [_logging(), ("topic", "subscribe", reader)]
    services = [f"{node}/{service}" for node in full for service in SERVICES]
    yield (
        f"{namespace}/operator",
        namespace or "/",
        "operator",
        [_logging(), ("service", "request", services)],
    )


def _names(topic: Topic, apps: Iterable[str], namespace: str) -> list[str]:
    """Full names of a topic; /diagnostics is the robot's own only where it is remapped."""
    if topic.name.startswith("/"):
        return [topic.name]
    return list(dict.fromkeys(f"{namespace}/{topic.of(app)}" for app in apps))


def _logging() -> Rule:
    return "topic", "publish", ["/rosout", "/parameter_events"]


def _node() -> list[Rule]:
    """What every lifecycle node of the package has."""
    return [
        ("topic", "publish", ["/rosout", "/parameter_events", DIAGNOSTICS.name, "~/transition_event"]),
        ("topic", "subscribe", ["/clock", "/parameter_events"]),
        ("service", "reply", [f"~/{service}" for service in SERVICES]),
    ]


def policy(apps: Iterable[str], namespace: str = "", texts: Iterable[str] = ()) -> str:
    """The XML of the policy of one robot."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- Written by tools/write_policy.py from the table of topics. See docs/security.md -->",
        f'<policy version="{VERSION}">',
        "  <enclaves>",
    ]
    for path, ns, node, rules in enclaves(apps, namespace, texts):
        lines += [f"    <enclave path={quoteattr(path)}>", "      <profiles>"]
        lines.append(f"        <profile ns={quoteattr(ns)} node={quoteattr(node)}>")
        for kind, allowed, names in rules:
            if names := sorted(set(names)):
                lines.append(f'          <{kind}s {allowed}="ALLOW">')
                lines += [f"            <{kind}>{escape(name)}</{kind}>" for name in names]
                lines.append(f"          </{kind}s>")
        lines += ["        </profile>", "      </profiles>", "    </enclave>"]
    return "\n".join([*lines, "  </enclaves>", "</policy>", ""])


def main() -> int:
    """Exit status 1 for --check where the file is another one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--app", action="append", metavar="NAME", help="an application (default: front)")
    parser.add_argument("--text", action="append", metavar="NAME", help="one of the language node")
    parser.add_argument("--namespace", default="", metavar="NAME", help="of the robot, e.g. robot1")
    parser.add_argument("--out", type=Path, default=POLICY, metavar="FILE", help=f"default: {POLICY.name}")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    namespace = "/" + options.namespace.strip("/") if options.namespace.strip("/") else ""
    text = policy(options.app or ["front"], namespace, options.text or ())
    if options.check:
        return int(not options.out.is_file() or options.out.read_text() != text)
    options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
