"""The task `translation`: text in, text out, by a network that generates it token by token.

One set of weights may have several targets, each named by the first token of an output: a language, or the
intents of robot commands. The parameter `target` says which one an application answers in.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from dynofa_ros.application.task import TEXT, Answer, Emit, Option, Output, Task, Text, register_task
from dynofa_ros.application.worker import MalformedRequest, OrderedQueue
from dynofa_ros.messages import Translation
from dynofa_ros.supernet.decoding import Hypothesis, generate
from dynofa_ros.supernet.engines.engine import Runner
from dynofa_ros.supernet.switching import Prepared
from dynofa_ros.supernet.text import load_tokenizer
from dynofa_ros.supernet.weights import Weights
from dynofa_ros.topics import TRANSLATION

DEMO = "seq2seq_demo"
MOST_UNKNOWN = 0.2  # share of a text's tokens that may be of characters the network never saw
LAYOUT = "\t\n\r"  # control characters that a text may have


@register_task
class TextTranslation(Task):
    """A text in, the same in another language out; or an intent with its roles."""

    name = "translation"
    request = TEXT
    outputs = (Output(TRANSLATION),)
    options = (
        Option(
            "target", "de", "what a text is turned into, one of the targets of the weights", dynamic=False
        ),
    )
    queue = OrderedQueue
    queued = True

    @classmethod
    def demo(cls, options: Mapping[str, Any]) -> tuple[str, str]:
        target = options["target"]
        return DEMO, DEMO if target == "de" else f"{DEMO}_{target}"

    def __init__(self, weights: Weights) -> None:
        self._tokenizer = load_tokenizer(weights)
        self._first = -1

    def configure(self, options: Mapping[str, Any]) -> None:
        target, known = options["target"], self._tokenizer.targets
        if target not in known:
            raise ValueError(f"target must be one of {', '.join(known)}, got {target!r}")
        self._first = known[target]

    def size(self, request: Text) -> float:
        """Tokens of the text; those of its answer are about proportional."""
        return float(len(self._source(request.text)))

    def preprocess(self, request: Text, network: Prepared[Any]) -> tuple[list[int], Text]:
        return self._source(request.text), request

    def wanted(self, request: Text) -> bool:
        return not request.cancelled()

    def infer(self, run: Runner, tensors: tuple[list[int], Text], emit: Emit) -> Hypothesis:
        source, request = tensors
        for found in generate(run, source, self._first):
            emit(self._results(request, found) if request.streamed and not found.finished else {})
        return found

    def postprocess(
        self, outputs: Hypothesis, request: Text, network: Prepared[Any], options: Mapping[str, Any]
    ) -> Answer:
        return Answer(self._results(request, outputs), math.exp(outputs.score), float(outputs.length))

    def _results(self, request: Text, found: Hypothesis) -> Mapping[Any, Translation]:
        text = self._tokenizer.decode(found.tokens)
        result = Translation(request.text, text, score=math.exp(found.score), output_size=found.length)
        return {TRANSLATION: result}

    def _source(self, text: str) -> list[int]:
        """Tokens of a text. Raises MalformedRequest for one that cannot be answered."""
        strange = next((c for c in text if unicodedata.category(c) == "Cc" and c not in LAYOUT), None)
        if strange is not None:
            raise MalformedRequest(f"the text has the control character U+{ord(strange):04X}")
        try:
            source = self._tokenizer.encode(text.strip())
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        unknown = self._tokenizer.unknown(text.strip())
        if unknown > MOST_UNKNOWN * len(source):
            raise MalformedRequest(
                f"{unknown} of the {len(source) - 1} tokens of the text are characters that the network "
                "never saw: it is of an unknown script"
            )
        return source
