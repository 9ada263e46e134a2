"""Training of a supernet: sandwich rule, in-place distillation (Yu and Huang, ICCV 2019; BigNAS, ECCV 2020).

The first part of the schedule trains the largest sub-network alone. After it every step trains the largest on
the truth, and the smallest and random ones on what the largest predicts. A step draws from (seed, step), so
that a training that was killed goes on from its checkpoint as if nothing had happened.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from dynofa_ros.errors import one_line
from dynofa_ros.files import write_atomically
from dynofa_ros.supernet.space import Plan
from dynofa_ros.supernet.weights import BUFFERS
from dynofa_ros.training.objective import Objective

WARM_UP_STEPS = 50  # at most; at most a tenth of all
SAVE_EVERY_S = 60.0
SAME = ("frozen", "batch", "learning_rate", "largest_only", "seed", "origin")  # settings that may not change
FORMER = {"frozen": 0.0}  # of checkpoints that do not say
LOG_EVERY = 10  # steps
SMOOTHING = 0.98  # of the loss that is shown
LARGEST_PIXELS = 16 * 512 * 288  # of a batch that goes through the network at once: about 3 GB
FEWEST_IMAGES = 4  # of such a part, for its batch normalisation


def parts(images: int, pixels: int) -> list[int]:
    """Numbers of images of so many pixels of which the parts of a batch consist that share an update."""
    number = min(-(-images * pixels // LARGEST_PIXELS), max(1, images // FEWEST_IMAGES))
    return [len(part) for part in np.array_split(np.arange(images), number)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to train. The schedule counts images and not minutes: a busy machine trains longer, not less."""

    images: int  # drawn in all; one counts again when it is drawn again
    batch: int = 8
    largest_only: float = 0.3  # share of the schedule
    frozen: float = 0.0  # share of the arrays, from the input on, that keep their values
    random_subnets: int = 1  # per step, beside the largest and the smallest
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    clip: float = 5.0
    seed: int = 0
    score_every: int = 0  # steps; 0 = at the end
    origin: str = ""  # what is trained on and begun with, to tell one training from another

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)


@dataclass
class State:
    """How far a training is. elapsed_s: of all its runs; loss: of the largest sub-network, smoothed."""

    step: int = 0
    elapsed_s: float = 0.0
    loss: float = math.nan


def leading_arrays(plan: Plan, head: str, share: float) -> list[str]:
    """Names of the first ``share`` (0..1) of the arrays of a network, without its ``head``."""
    names = [name for name in plan.stored() if name.split(".")[0] != head.split(".")[0]]
    return names[: round(share * len(names))]


class Training:
    """One training in a folder: ``checkpoint.pt`` to go on from, ``log.jsonl`` with its curve."""

    def __init__(
        self, objective: Objective, weights: dict[str, Tensor], settings: Settings, folder: Path
    ) -> None:
        """weights: to begin with; those of a checkpoint in ``folder`` take their place.

        Raises ValueError naming the folder if it holds another training, or a checkpoint that is none.
        """
        self.objective, self.settings, self.folder = objective, settings, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.weights = {name: value.to(self.device).clone() for name, value in weights.items()}
        plan, head = objective.plan(objective.space.largest), objective.space.head
        kept = {k for k in self.weights if k.endswith(BUFFERS)}.union(
            leading_arrays(plan, head, settings.frozen)
        )
        self._trained = [value.requires_grad_() for name, value in self.weights.items() if name not in kept]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": [v for v in self._trained if v.ndim > 1], "weight_decay": settings.weight_decay},
                {"params": [v for v in self._trained if v.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
        )
        self._warm_up = max(1, min(WARM_UP_STEPS, settings.steps // 10))
        self.state = State()
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint, self._log = folder / "checkpoint.pt", folder / "log.jsonl"
        self._entries: list[str] = []
        if self._checkpoint.exists():
            self._resume()

    def _identity(self) -> dict[str, Any]:
        space, labels = self.objective.space.name, list(self.objective.labels)
        return {"space": space, "labels": labels} | {name: getattr(self.settings, name) for name in SAME}

    def _resume(self) -> None:
        try:
            saved = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
            own, former = self._identity(), FORMER | saved["identity"]
            other = [name for name in own if former.get(name, own[name]) != own[name]]
            if not other:
                self._go_on(saved)
        except (OSError, MemoryError):  # says nothing of the file
            raise
        except Exception as error:  # of a broken file torch raises zip, type and runtime errors alike
            raise ValueError(
                f"{self._checkpoint}: no checkpoint of a training: remove {self.folder} to begin anew "
                f"({one_line(error)})"
            ) from error
        if other:
            raise ValueError(
                f"{self.folder} holds the training of another network, of other classes or images, or with "
                f"other frozen layers or options ({', '.join(other)}): choose another folder, or remove it"
            )
        if self.state.step > self.settings.steps:
            raise ValueError(
                f"{self.folder} holds {self.state.step} steps of a training, {self.settings.steps} are asked "
                "for: choose another folder, or remove it"
            )

    def _go_on(self, saved: dict[str, Any]) -> None:
        self.state = State(**saved["state"])
        self._optimiser.load_state_dict(saved["optimiser"])
        with torch.no_grad():
            for name, value in saved["weights"].items():
                self.weights[name].copy_(value)
        with suppress(OSError, ValueError):  # no log, or a line that a full disk cut off
            for line in self._log.read_text().splitlines():
                if json.loads(line)["step"] <= self.state.step:
                    self._entries.append(line)

    def save(self) -> None:
        """Write the checkpoint: a process that is killed at any time leaves the old or the new one."""
        content = {
            "identity": self._identity(),
            "state": vars(self.state),
            "weights": self.weights,
            "optimiser": self._optimiser.state_dict(),
        }
        data = io.BytesIO()
        torch.save(content, data)
        write_atomically(self._checkpoint, data.getvalue())

    def run(self, progress: Callable[[State], None]) -> None:
        """Train to the end; ``progress`` is called after every step.

        Raises ValueError if the loss is no longer a number, OSError if the folder cannot be written.
        """
        state, saved = self.state, time.monotonic()
        while state.step < self.settings.steps:
            began = time.monotonic()
            loss = self._step()
            if not math.isfinite(loss):
                raise ValueError(f"step {state.step}: the loss is not finite: lower the learning rate")
            state.step += 1
            state.elapsed_s += time.monotonic() - began
            state.loss = loss if math.isnan(state.loss) else SMOOTHING * state.loss + (1 - SMOOTHING) * loss
            ended = state.step == self.settings.steps
            due = ended or bool(self.settings.score_every and state.step % self.settings.score_every == 0)
            if due or state.step % LOG_EVERY == 0:
                self._write_log(self.objective.score(self.weights) if due else {})
            progress(state)
            if ended or time.monotonic() - saved >= SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()

    def _write_log(self, scores: dict[str, float]) -> None:
        self._entries.append(json.dumps(vars(self.state) | scores))
        write_atomically(self._log, ("\n".join(self._entries) + "\n").encode())

    def _step(self) -> float:
        """One optimiser step; returns the loss of the largest sub-network."""
        settings, objective = self.settings, self.objective
        share = self.state.step / settings.steps
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        for group in self._optimiser.param_groups:
            group["lr"] = rate * min(1.0, (self.state.step + 1) / self._warm_up)
        rng = np.random.default_rng([settings.seed, self.state.step])
        size, loss = objective.size(rng), 0.0
        plan, students = objective.plan(objective.space.config(**size)), None
        self._optimiser.zero_grad(set_to_none=True)
        for number in parts(settings.batch, prod(plan.input_shape[1:])):
            batch = objective.batch(size, number, rng).to(self.device)
            if students is None:
                students = self._students(size, rng) if share >= settings.largest_only else []
            loss += self._backward(batch, plan, students, number / settings.batch)
        torch.nn.utils.clip_grad_norm_(self._trained, settings.clip)
        self._optimiser.step()
        return loss

    def _backward(self, batch: Any, plan: Plan, students: Sequence[Any], weight: float) -> float:
        """Add the gradients of a part of a step; returns its part of the loss of the largest sub-network."""
        objective = self.objective
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, soft = objective.taught(objective.raw(plan, self.weights, images), batch, plan)
            (weight * loss).backward()
            for student in map(objective.plan, students):
                raw = objective.raw(student, self.weights, images)
                (weight * objective.distilled(raw, soft, batch, student)).backward()
        return weight * float(loss.detach())

    def _students(self, size: Any, rng: np.random.Generator) -> list[Any]:
        space = self.objective.space
        genes = [np.zeros(len(space.gene_sizes), int)]
        genes += [rng.integers(space.gene_sizes) for _ in range(self.settings.random_subnets)]
        return [space.resized(space.decode(g, space.input_sizes[0]), **size) for g in genes]
