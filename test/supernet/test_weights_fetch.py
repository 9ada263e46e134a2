"""`dynofa weights`: downloads that survive a cut, pinned digests, hand-placed files, one-line errors."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from command import dynofa
from factories import random_weights
from safetensors.numpy import save

from dynofa_ros.errors import CliError, UsageError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space, official_spaces
from dynofa_ros.supernet.weights import WeightsError, load_weights
from dynofa_ros.supernet.zoo import CheckpointError, DownloadError, check, download, known_spaces, load_list

SPACE = load_space(DEMO_SPACE)
NAME = "ofa_mbv3_w1.0"


class Server(ThreadingHTTPServer):
    """Serves one content; the attributes say how badly."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.version = '"1"'
        self.ranges = True
        self.shift = 0  # bytes that a partial answer starts too early
        self.cut_after: int | None = None
        self.status = 200
        self.type = "application/octet-stream"
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/ofa/checkpoint"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        status = 206 if start else server.status
        if start >= len(server.content):
            status, start = 416, len(server.content)
        start -= server.shift if status == 206 else 0
        body = server.content[start:]
        self.send_response(status)
        self.send_header("Content-Type", server.type)
        self.send_header("Content-Length", str(len(body)))
        if server.version:
            self.send_header("ETag", server.version)
        if status == 206:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        self.wfile.write(body[: server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(np.random.default_rng(0).bytes(300_000))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server: Server, target: Path) -> list[tuple[int, int]]:
    """Download; returns the reported progress."""
    seen: list[tuple[int, int]] = []
    download(server.url, target, lambda done, total: seen.append((done, total)))
    return seen


def cut_once(server: Server, target: Path, after: int = 200_000) -> None:
    server.cut_after = after
    with pytest.raises(DownloadError, match=f"cut after {after} of 300000 bytes: run the command again"):
        get(server, target)
    assert not target.exists() and target.with_name("file.part").stat().st_size == after
    server.cut_after = None


# --- the download ---------------------------------------------------------------------------------------


def test_a_file_comes_whole_with_progress_and_leaves_nothing_else(tmp_path, server):
    seen = get(server, tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == server.content
    assert seen[-1] == (300_000, 300_000) and seen == sorted(seen)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


def test_a_cut_download_goes_on_where_it_stopped(tmp_path, server):
    target = tmp_path / "file"
    cut_once(server, target)
    assert get(server, target)[0][0] > 200_000
    assert target.read_bytes() == server.content
    assert server.asked == [None, "bytes=200000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "change", ["no ranges", "wrong place", "other content", "shorter", "no version", "other address"]
)
def test_what_cannot_be_continued_starts_anew(tmp_path, server, change):
    target = tmp_path / "file"
    if change == "no version":
        server.version = ""
    cut_once(server, target)
    if change == "no ranges":
        server.ranges = False
    elif change == "wrong place":
        server.shift = 10
    elif change == "other content":
        server.content, server.version = server.content[::-1], '"2"'
    elif change == "shorter":
        server.content = b"short"
    elif change == "no version":
        server.content = server.content[::-1]
    elif change == "other address":  # even if it came whole
        target.with_name("file.part").write_bytes(bytes(300_000))
        note = target.with_name("file.part.json")
        note.write_text(note.read_text().replace("127.0.0.1", "example.org"))
    get(server, target)
    assert target.read_bytes() == server.content


def test_a_part_that_is_complete_is_not_asked_for_again(tmp_path, server):
    target = tmp_path / "file"
    cut_once(server, target)
    target.with_name("file.part").write_bytes(server.content)
    get(server, target)
    assert target.read_bytes() == server.content and len(server.asked) == 1


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("404", "HTTP 404 Not Found"),
        ("refused", "not reached: Connection refused"),
        ("page", "is a web page"),
        ("page by its text", "is a web page"),
        ("folder is a file", "cannot be written"),
    ],
)
def test_what_keeps_a_file_from_coming_is_one_line(tmp_path, server, case, words):
    url, target = server.url, tmp_path / "file"
    if case == "404":
        server.status = 404
    elif case == "refused":
        url = f"http://127.0.0.1:{closed_port()}/file"
    elif case == "page":
        server.type = "text/html; charset=utf-8"
    elif case == "page by its text":
        server.content = b"\n<!DOCTYPE html><html>Are you sure?</html>"
    else:
        target.write_text("a file")
        target = target / "file"
    with pytest.raises(DownloadError, match=words) as error:
        download(url, target, lambda done, total: None)
    assert url in str(error.value) and "\n" not in str(error.value)
    assert not target.exists() and not list(tmp_path.glob("*.part*"))


# --- the command ----------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return dynofa("weights", *arguments)


@pytest.fixture
def listed(tmp_path, server) -> Path:
    """A list with one checkpoint of the demo space, as a torch file, on the local server."""
    torch = pytest.importorskip("torch")
    source = tmp_path / "source.pth"
    torch.save(
        {"state_dict": {k: torch.from_numpy(v) for k, v in random_weights(SPACE, seed=1).items()}}, source
    )
    server.content = source.read_bytes()
    return write_list(tmp_path, {"space": DEMO_SPACE, "url": server.url, "size_mb": 4})


def write_list(folder: Path, entry: dict[str, object], name: str = "demo") -> Path:
    path = folder / "list.yaml"
    path.write_text(json.dumps({"schema_version": 1, "checkpoints": {name: entry}}))
    return path


def test_fetch_writes_checks_and_pins(tmp_path, server, listed, capsys):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    assert run("fetch", "demo", "--urls", listed, "--out", out, "--json", figures) == 0
    names = {p.name for p in out.iterdir()}
    assert names == {"demo.pth", "demo.pth.sha256", "demo.safetensors"}
    digest = hashlib.sha256(server.content).hexdigest()
    assert (out / "demo.pth.sha256").read_text() == f"{digest}  demo.pth\n"
    mapped = load_weights(SPACE, out / "demo.safetensors")
    assert mapped.digest == load_weights(SPACE, random_weights(SPACE, seed=1)).digest
    (result,) = json.loads(figures.read_text())
    assert result == {
        "name": "demo",
        "file": str(out / "demo.pth"),
        "space": DEMO_SPACE,
        "classes": 7,
        "parameters": mapped.parameters,
        "digest": mapped.digest,
        "sha256": digest,
        "safetensors": str(out / "demo.safetensors"),
    }
    captured = capsys.readouterr()
    assert DEMO_SPACE in captured.out and digest in captured.out and captured.err == ""
    assert run("fetch", "demo", "--urls", listed, "--out", out) == 0
    assert len(server.asked) == 1, "what is there is not downloaded again"


def test_a_later_download_that_differs_is_refused_with_both_digests(tmp_path, server, listed):
    out = tmp_path / "out"
    run("fetch", "demo", "--urls", listed, "--out", out)
    first = hashlib.sha256(server.content).hexdigest()
    (out / "demo.pth").unlink()
    server.content, server.version = server.content + b"more", '"2"'
    with pytest.raises(CliError) as error:
        run("fetch", "demo", "--urls", listed, "--out", out)
    assert first in str(error.value) and hashlib.sha256(server.content).hexdigest() in str(error.value)
    assert not (out / "demo.pth").exists()


def test_a_file_that_was_changed_is_refused_and_kept(tmp_path, server, listed):
    out = tmp_path / "out"
    run("fetch", "demo", "--urls", listed, "--out", out)
    (out / "demo.pth").write_bytes(b"changed")
    for arguments in (["fetch", "demo", "--urls", listed, "--out", out], ["check", out / "demo.pth"]):
        with pytest.raises(CliError, match=hashlib.sha256(b"changed").hexdigest()):
            run(*arguments)
    assert (out / "demo.pth").read_bytes() == b"changed"


def test_a_listed_digest_is_demanded_of_the_first_download(tmp_path, server, listed):
    entry = {"space": DEMO_SPACE, "url": server.url, "size_mb": 4, "sha256": "0" * 64}
    with pytest.raises(CliError, match="the list says 0000"):
        run("fetch", "demo", "--urls", write_list(tmp_path, entry), "--out", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_download_that_does_not_fit_is_neither_kept_nor_pinned(tmp_path, server, listed):
    server.content = b"version https://git-lfs.github.com/spec/v1"
    with pytest.raises(CliError, match="demo.pth: not a readable checkpoint"):
        run("fetch", "demo", "--urls", listed, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_offline_says_which_file_to_put_where_and_that_works(tmp_path, server, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{closed_port()}/demo.safetensors"
    listed = write_list(tmp_path, {"space": DEMO_SPACE, "url": url, "size_mb": 4})
    target = tmp_path / "dynofa_ros" / "weights" / "demo.safetensors"
    with pytest.raises(CliError) as error:
        run("fetch", "demo", "--urls", listed)
    assert f"put the file at {target} and run 'dynofa weights check {target}'" in str(error.value)
    assert url in str(error.value) and "\n" not in str(error.value)
    target.write_bytes(save(random_weights(SPACE, seed=2)))
    assert run("fetch", "demo", "--urls", listed) == 0 == run("check", target)
    assert target.with_name("demo.safetensors.sha256").exists()


def test_another_url_is_taken_for_one_name(tmp_path, server):
    server.content = save(random_weights(SPACE, seed=2))
    listed = write_list(tmp_path, {"space": DEMO_SPACE, "url": "http://example.invalid/x", "size_mb": 4})
    url = server.url + ".safetensors"
    assert run("fetch", "demo", "--urls", listed, "--url", url, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "demo.safetensors").read_bytes() == server.content


def test_without_torch_nothing_is_downloaded_in_vain(tmp_path, server, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    listed = write_list(tmp_path, {"space": DEMO_SPACE, "url": server.url, "size_mb": 4})
    with pytest.raises(CliError, match="torch is not installed.*copy demo.safetensors"):
        run("fetch", "demo", "--urls", listed, "--out", tmp_path / "out")
    assert not server.asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetch", "ofa_mbv3"], f"'ofa_mbv3' is not in the list.*{NAME}"),
        (["fetch", NAME, "ofa_resnet50", "--url", "http://x/y"], "one NAME"),
        (["fetch", NAME, "--url", "file:///etc/passwd"], "http://"),
        (["check", "x", "--space", "mobilenet"], "--space: space 'mobilenet' is unknown"),
        (["check", "x", "--out", "y.pth"], "must end in .safetensors"),
    ],
)
def test_bad_usage_is_one_line(arguments, words):
    with pytest.raises(UsageError, match=words) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


# --- check and list -------------------------------------------------------------------------------------


def test_check_recognises_the_space_and_converts(tmp_path, listed):
    out, figures = tmp_path / "converted.safetensors", tmp_path / "figures.json"
    assert run("check", tmp_path / "source.pth", "--out", out, "--json", figures) == 0
    result = json.loads(figures.read_text())
    assert (result["space"], result["classes"]) == (DEMO_SPACE, 7)
    assert load_weights(SPACE, out).digest == result["digest"]
    with pytest.raises(CliError, match="ofa_mbv3_w1.2 needs"):
        run("check", out, "--space", "ofa_mbv3_w1.2")
    with pytest.raises(CliError, match="no such file"):
        run("check", tmp_path / "none.pth")


@pytest.mark.parametrize(
    "name", [*official_spaces(), DEMO_SPACE, f"{DEMO_SPACE}_detector", "seq2seq_demo", "autoformer_tiny"]
)
def test_every_known_space_is_recognised(tmp_path, name):
    shapes = load_space(name).parameter_shapes(10)
    path = tmp_path / "any.safetensors"
    path.write_bytes(save({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}))
    assert check(path, known_spaces({})).space.name == name


def test_a_checkpoint_of_no_known_space_says_so(tmp_path):
    path = tmp_path / "any.safetensors"
    path.write_bytes(save({"classifier.linear.weight": np.zeros((7, 3), np.float32)}))
    with pytest.raises(WeightsError, match=f"fits none of the spaces.*{DEMO_SPACE}"):
        check(path, known_spaces({}))


def test_the_packaged_list_has_every_official_space():
    listed = load_list(share_file("config", "checkpoints.yaml"))
    assert {checkpoint.space for checkpoint in listed.values()} == set(official_spaces())


@pytest.mark.parametrize(
    ("entry", "name", "words"),
    [
        ({"space": "mobilenet", "url": "http://x/y", "size_mb": 1}, "demo", "checkpoints.demo: space"),
        ({"space": DEMO_SPACE, "url": "ftp://x/y", "size_mb": 1}, "demo", "must start with http"),
        ({"space": DEMO_SPACE, "url": "http://x/y"}, "demo", "size_mb"),
        ({"space": DEMO_SPACE, "url": "http://x/y", "size_mb": 1, "sha256": "ab"}, "demo", "64 hexadecimal"),
        ({"space": DEMO_SPACE, "url": "http://x/y", "size_mb": 1}, "../demo", "the name must be"),
    ],
)
def test_a_list_that_is_wrong_names_the_key(tmp_path, entry, name, words):
    path = write_list(tmp_path, entry, name)
    with pytest.raises(CheckpointError, match=words) as error:
        load_list(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
