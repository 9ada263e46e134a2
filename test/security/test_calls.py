"""Calls that run what they read, or read without a bound: none, but in the one place that guards it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dynofa_ros"
# Call -> modules in which it may stand.
GUARDED = {
    "eval": {"convert.py"},  # of this package's own text: from the fields of its dataclasses
    "exec": {"convert.py", "cdr.py"},
    "msgspec.yaml.decode": {"files.py"},
    "yaml.parse": {"files.py"},
    "yaml.compose": {"device/board.py"},  # behind files.decode_yaml
    "torch.load": {"supernet/checkpoint.py", "training/loop.py"},
    **dict.fromkeys(("yaml.load", "yaml.safe_load", "yaml.unsafe_load", "yaml.full_load"), set()),
    **dict.fromkeys(("pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "joblib.load"), set()),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "onnx.load", "tempfile.mktemp"), set()),
    **dict.fromkeys(("zipfile.ZipFile.extractall", "tarfile.open", "shutil.unpack_archive"), set()),
}


def calls() -> list[tuple[str, str, ast.Call]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found.append((str(path.relative_to(PACKAGE)), ast.unparse(node.func), node))
    return found


CALLS = calls()


@pytest.mark.parametrize("name", GUARDED)
def test_where_it_is_called(name: str) -> None:
    assert {place for place, called, _ in CALLS if called == name} <= GUARDED[name]


def test_torch_loads_tensors_alone_and_no_shell_is_started() -> None:
    for place, called, node in CALLS:
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called != "torch.load" or arguments["weights_only"] == "True", place
        assert {arguments.get("shell"), arguments.get("allow_pickle")} <= {None, "False"}, place
