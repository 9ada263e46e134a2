"""Which values of a commented YAML file are guesses: the comment on their line says guess, or from memory."""

from __future__ import annotations

import re

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
GUESS = re.compile(r"#.*\b(guess|from memory)")


def guessed_keys(text: str) -> tuple[str, ...]:
    """Dotted keys in the order of the file; values behind an alias count for every place that uses them.

    The comment stands on the line of the key. Raises yaml.YAMLError if the text is not YAML.
    """
    guessed = [GUESS.search(line) is not None for line in text.splitlines()]
    root = yaml.compose(text, Loader=LOADER)
    return tuple(_walk(root, "", guessed)) if root is not None else ()


def _walk(
    node: yaml.Node, prefix: str, guessed: list[bool], hidden: frozenset[str] = frozenset()
) -> list[str]:
    """``hidden``: keys that a table takes from elsewhere (``<<``) but sets itself."""
    if not isinstance(node, yaml.MappingNode):
        return []
    own = frozenset(key.value for key, _ in node.value)
    found: list[str] = []
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value == "<<":
            found += _walk(value, prefix, guessed, own)
        elif key.value in hidden:
            continue
        elif isinstance(value, yaml.MappingNode):
            found += _walk(value, f"{name}.", guessed)
        elif guessed[key.start_mark.line]:
            found.append(name)
    return found
