"""The task `translation`: every text gets an answer or a reason, two targets share one backbone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers", reason="texts need the package tokenizers")

from text_backbone import write_backbone, write_library

from dynofa_ros.application.application import Application, Settings, loaded
from dynofa_ros.application.task import TEXT, Text, tasks
from dynofa_ros.application.worker import OrderedQueue, Outcome
from dynofa_ros.messages import AppTargets, Header, InferenceMonitor, SubnetCommand, Translation
from dynofa_ros.supernet.weights import WeightsError
from dynofa_ros.topics import LIBRARY, MONITOR, TRANSLATION, Topic

WAIT_S = 30.0
TRANSLATE = tasks(TEXT)["translation"]


class Translator:
    """An application that answers texts, and everything that came of them."""

    def __init__(self, weights: Path, library: Path, target: str = "de", **changes: Any) -> None:
        self.published: list[tuple[Topic, Any]] = []
        self.streamed: list[Translation] = []
        self.unanswered: list[tuple[Text, Outcome, str]] = []
        settings, options = (
            Settings(str(weights), str(library), cache_mb=128.0, **changes),
            {"target": target},
        )
        self.application = Application(
            "translator",
            *loaded(TRANSLATE, settings, options),
            settings,
            AppTargets("translator", 5000.0, rate_hz=5.0),
            "",
            options=options,
            decode=lambda text: (Header(5, "user"), text),
            publish=lambda topic, message: self.published.append((topic, message)),
            stream=lambda topic, message: self.streamed.append(message),
            clock_ns=time.time_ns,
            warn=lambda text: None,
            unanswered=lambda *what: self.unanswered.append(what),
        )
        self.application.start()

    def of(self, topic: Topic) -> list[Any]:
        return [message for kind, message in list(self.published) if kind == topic]

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < end, (self.published, self.unanswered)
            time.sleep(0.002)
        return found

    def answer(self, text: Text) -> tuple[Translation, InferenceMonitor]:
        before = len(self.of(MONITOR))
        assert self.application.accept(text)
        self.until(lambda: len(self.of(MONITOR)) > before)
        return self.of(TRANSLATION)[-1], self.of(MONITOR)[-1]

    def refuse(self, text: str) -> str:
        """The reason why a text gets no answer."""
        before = len(self.unanswered)
        self.application.accept(Text(text))
        _, outcome, reason = self.until(lambda: self.unanswered[before:])[0]
        assert outcome == Outcome.FAILED
        return reason

    def close(self) -> None:
        self.application.stop("the end")
        self.application.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    write_backbone(folder)
    for target in ("de", "intent"):
        write_library(folder, target)
    return folder


@pytest.fixture(scope="module")
def translator(folder: Path) -> Iterator[Translator]:
    made = Translator(folder / "backbone.safetensors", folder / "de.yaml")
    yield made
    made.close()


def test_a_text_is_answered_and_measured(translator: Translator) -> None:
    translation, monitor = translator.answer(Text("Tom winked."))
    assert (translation.source, translation.reason, translation.header.frame_id) == (
        "Tom winked.",
        "",
        "user",
    )
    assert 0.0 < translation.score < 1.0
    assert monitor.request_size == translation.output_size > 1
    factor = 0.5 + 0.5 * monitor.request_size / 10.0
    assert monitor.normalized_ms == pytest.approx(monitor.inference_ms / factor)
    assert 0.0 < monitor.first_output_ms < monitor.latency_ms and monitor.unit_ms > 0.0
    assert translator.of(LIBRARY)[-1].accuracy_metric == "BLEU / 100"


def test_a_stream_ends_with_what_is_published(translator: Translator) -> None:
    before, published = len(translator.streamed), len(translator.of(TRANSLATION))
    translation, _ = translator.answer(Text("Tom winked.", streamed=True))
    streamed = translator.streamed[before:]
    assert [s.output_size for s in streamed] == list(range(1, translation.output_size))
    assert all(translation.text.startswith(s.text.strip()) for s in streamed)
    assert len(translator.of(TRANSLATION)) == published + 1  # parts go nowhere else
    translator.answer(Text("Tom winked."))
    assert len(translator.streamed) == before + len(streamed)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the text is empty"),
        (" \n\t ", "the text is empty"),
        ("a" * 10_000, "10000 characters"),
        ("a " * 200, "tokens: at most"),
        ("stop\x07it", "the control character U+0007"),
        ("\x00", "the control character U+0000"),
        ("Привет, мир", "unknown script"),
        ("日本語", "unknown script"),
    ],
)
def test_a_text_that_cannot_be_answered_is_named(translator: Translator, text: str, reason: str) -> None:
    malformed = translator.application.counters.malformed
    assert reason in translator.refuse(text)
    assert translator.application.counters.malformed == malformed + 1
    translator.answer(Text("It goes on."))


def test_line_ends_are_no_control_characters(translator: Translator) -> None:
    translator.answer(Text("Tom winked.\r\n\tWho am I?"))


def test_a_cancel_during_the_first_token(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter([False, True])  # before it begins, and after the first token
    assert translator.application.accept(Text("Tom winked.", cancelled=lambda: next(asked, True)))
    translator.until(lambda: translator.unanswered and translator.unanswered[-1][1] == Outcome.CANCELED)
    translator.answer(Text("It goes on."))


def test_an_emulated_device_streams_as_slowly_as_it_translates(folder: Path) -> None:
    slow = Translator(
        folder / "backbone.safetensors", folder / "de.yaml", emulate_dvfs=True, emulated_slowdown=50.0
    )
    _, monitor = slow.answer(Text("Tom winked.", streamed=True))
    parts = monitor.request_size
    assert len(slow.streamed) == parts - 1 > 1
    assert monitor.unit_ms * (parts - 1) > 0.5 * monitor.inference_ms, "not all at once at the end"
    before, asked = len(slow.streamed), iter([False, False])  # before it begins, and after the first token
    assert slow.application.accept(Text("Tom winked.", True, lambda: next(asked, True)))
    slow.until(lambda: slow.unanswered)
    assert (slow.unanswered[0][1], len(slow.streamed)) == (Outcome.CANCELED, before + 1)
    slow.close()


def test_nothing_that_was_accepted_is_lost(folder: Path) -> None:
    own = Translator(folder / "backbone.safetensors", folder / "de.yaml")
    held = threading.Event()

    def hold() -> bool:
        assert held.wait(WAIT_S)
        return False

    texts = [Text(f"Text {n}", cancelled=hold) for n in range(OrderedQueue.limit + 4)]
    accepted = []
    for text in texts:
        accepted.append(own.application.accept(text))
        time.sleep(0.02 if len(accepted) == 1 else 0.0)  # the first one is in work
    assert accepted == [True] * (OrderedQueue.limit + 1) + [False] * 3
    assert [(t.text, o) for t, o, _ in own.unanswered] == [(t.text, Outcome.REFUSED) for t in texts[-3:]]
    assert own.unanswered[0][2] == f"the queue is full: {OrderedQueue.limit} requests wait"
    threading.Timer(0.2, held.set).start()
    own.close()
    answered = {t.source for t in own.of(TRANSLATION)} | {t.text for t, _, _ in own.unanswered}
    assert answered == {t.text for t in texts}


def test_the_tokenizer_must_fit_the_weights(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="its tokenizer has .* words, the network 50"):
        Translator(write_backbone(tmp_path, words=50), folder / "de.yaml")


def test_an_unknown_target_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="target must be one of de, intent, got 'fr'"):
        Translator(folder / "backbone.safetensors", folder / "de.yaml", "fr")


def test_two_targets_share_what_they_prepare(folder: Path, translator: Translator) -> None:
    parser = Translator(folder / "backbone.safetensors", folder / "intent.yaml", "intent")
    try:
        assert parser.of(LIBRARY)[-1].accuracy_metric == "exact match"
        own, other = parser.application.current, translator.application.current
        assert own is not None and other is not None
        assert own.key.subnet_id == "intent2" and other.key.subnet_id == "de2"
        assert own.run is other.run
        every = range(len(parser.application.networks.libraries["cpu"].entries))
        for one in (parser, translator):
            one.until(lambda one=one: len(one.application.resident) == len(every))
        runs = [{p.key.subnet_id: p.run for p in one.application.resident} for one in (parser, translator)]
        assert all(runs[0][f"intent{n}"] is runs[1][f"de{n}"] for n in every), "though both hold all at once"
        text = Text("Go to the kitchen.")
        assert parser.answer(text)[0].score != translator.answer(text)[0].score
    finally:
        parser.close()


def test_a_grant_is_followed_text_by_text(translator: Translator) -> None:
    ids = tuple(f"de{n}" for n in range(3))
    command = SubnetCommand(
        1, "de0", "cpu", prefetch_subnet_ids=ids, granted_subnet_ids=ids, granted_ms=(20.0, 40.0, 80.0)
    )
    translator.application.command.take(command)
    translator.until(lambda: {p.key.subnet_id for p in translator.application.resident} >= set(ids))
    used = []
    for text in ("No.", "Where did you put the keys of the car that we saw?"):
        assert translator.application.accept(Text(text), target_ms=200.0)
        before = len(used)
        translator.until(lambda before=before: len(translator.of(MONITOR)) > before)  # noqa: B023
        used.append(translator.of(MONITOR)[-1])
        time.sleep(0.05)
    translator.until(lambda: len({m.subnet_id for m in translator.of(MONITOR)[-2:]}) == 2)
    short, long = translator.of(MONITOR)[-2:]
    assert (short.subnet_id, long.subnet_id) == ("de2", "de0")
    assert short.decision_id == long.decision_id == 1
