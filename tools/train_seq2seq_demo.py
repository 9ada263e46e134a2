#!/usr/bin/env python3
"""Train the demo translator: one elastic encoder-decoder, English to German and command to intents.

Sandwich rule with in-place distillation (Yu and Huang, ICCV 2019): the first part of the schedule trains the
largest sub-network alone; after that every step trains the largest on the labels and, in turn, the smallest
or a random one half on the labels, half on the largest's prediction. What is written is a moving average.
The schedule ends by the clock (--minutes) or by the number of pairs (--pairs), whichever is first; a killed
run that is started again with the same arguments goes on from its newest checkpoint.

With --finish MINUTES the trained networks then learn from translations of the largest one (--distil sentences
of train.tsv, beam 4; Kim and Rush, EMNLP 2016), the smallest one at most steps: it fits them better than
those of people. What is written is between the weights before and after. Killed, this phase begins anew.

    python tools/train_seq2seq_demo.py --data tatoeba_en_de --work build/seq2seq --minutes 75

The folder --data holds train.tsv: a sentence and its translation, one tab between, a pair a line. Pairs come
from https://tatoeba.org (CC-BY 2.0 FR): its exports are at https://tatoeba.org/downloads, ready pairs of
English and German at https://www.manythings.org/anki (deu-eng.zip; keep the first two columns). Keep some
sentences out of train.tsv, on either side, for `dynofa library build --pairs`. Commands are drawn
(dynofa_ros/demo/commands.py).
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from dynofa_ros.demo.commands import commands
from dynofa_ros.files import write_atomically
from dynofa_ros.library.sentences import read_pairs
from dynofa_ros.supernet.decoding import generate
from dynofa_ros.supernet.eager import EagerBuilder
from dynofa_ros.supernet.families.seq2seq_demo import FIRST_TOKENS, Seq2SeqConfig
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import load_supernet
from dynofa_ros.supernet.text import TOKENIZER
from dynofa_ros.supernet.text import load_tokenizer as load_text
from dynofa_ros.supernet.transformer_graphs import END, PAD, UNKNOWN, hidden

SPACE = load_space("seq2seq_demo")
VOCABULARY = 4000
ALL = 10**9  # pairs of a file
GERMAN, INTENT = FIRST_TOKENS
SPECIAL = ("<pad>", "<end>", "<unknown>", "<de>", "<intent>")  # in the order of their ids
FINISH_RATE, FINISH_AVERAGING = 5e-4, 0.99  # of the last phase
FINISH_SHARE = 0.6  # of its weights in what is written; the others are those before it
SMOOTHING, AVERAGING, COMMAND_SHARE, LARGEST_ONLY, POOL = 0.1, 0.999, 0.2, 0.15, 20_000
COUNTS = ("step", "pairs", "spent_s", "pool")
Weights = dict[str, Tensor]
Pair = tuple[list[int], list[int]]  # source with its end; target: first token, words, end


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of train.tsv")
    parser.add_argument("--work", type=Path, default=Path("build/seq2seq"), help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=75.0, help="of training, over all starts")
    parser.add_argument("--finish", type=float, default=0.0, metavar="MINUTES", help="of the last phase")
    parser.add_argument("--distil", type=int, default=60_000, help="sentences of the last phase, at most")
    parser.add_argument("--pairs", type=int, default=4_000_000, help="at most so many")
    parser.add_argument("--tokens", type=int, default=4500, help="target tokens of a batch")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# --- text ---------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte pair encoding over words; punctuation and digits stand alone; what is not known is <unknown>."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN], fuse_unk=True))
    spaces = [normalizers.Replace(Regex(r"[\p{C}\s]+"), " "), normalizers.Strip()]
    roles = normalizers.Replace(Regex("= ?"), "= ")  # "goal=" and a word, not one word
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *spaces, roles])
    alone = pre_tokenizers.Split(Regex(r"[^\p{L}\p{M}\p{N}▁'’_=]|\p{N}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), alone])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Metaspace(), decoders.Fuse(), decoders.Replace("= ", "=")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), limit_alphabet=120, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encoded(tokenizer: Tokenizer, pairs: list[tuple[str, str]], first: int) -> list[Pair]:
    sources, targets = (tokenizer.encode_batch([pair[side] for pair in pairs]) for side in (0, 1))
    return [([*s.ids, END], [first, *t.ids, END]) for s, t in zip(sources, targets, strict=True)]


def batches(
    tokenizer: Tokenizer, translations: list[Pair], seed: int, tokens: int, start: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(pool, source, target), padded, without end, from pool ``start``: pools sorted by length, then cut."""
    translated = round(POOL * (1 - COMMAND_SHARE))
    for pool in itertools.count(start):
        rng = np.random.default_rng([seed, pool])
        first = pool * translated
        chosen = [translations[i] for i in _epochs(len(translations), seed, first, translated)]
        drawn = itertools.islice(commands(seed + 1000 + pool), POOL - translated)
        chosen += encoded(tokenizer, list(drawn), INTENT)
        noise = rng.uniform(0, 1, len(chosen))
        order = sorted(
            range(len(chosen)), key=lambda i: (len(chosen[i][1]), len(chosen[i][0]) + 2 * noise[i])
        )
        cut: list[list[Pair]] = []
        batch: list[Pair] = []
        longest = 0
        for i in order:
            longest = max(longest, len(chosen[i][1]))
            if batch and (len(batch) + 1) * longest > tokens:
                cut.append(batch)
                batch, longest = [], len(chosen[i][1])
            batch.append(chosen[i])
        cut.append(batch)
        for i in rng.permutation(len(cut)):
            yield pool, padded([pair[0] for pair in cut[i]]), padded([pair[1] for pair in cut[i]])


def _epochs(length: int, seed: int, first: int, count: int) -> Iterator[int]:
    """Positions first to first + count of endless permutations, one per epoch."""
    while count > 0:
        epoch, offset = divmod(first, length)
        order = np.random.default_rng([seed, 7, epoch]).permutation(length)[offset : offset + count]
        yield from order
        first, count = first + len(order), count - len(order)


def padded(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


# --- network ------------------------------------------------------------------------------------------------


def initial_weights(seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in SPACE.parameter_shapes(VOCABULARY).items():
        if name == SPACE.head:
            weights[name] = torch.randn(shape, generator=generator) * shape[1] ** -0.5
        elif len(shape) > 1:
            bound = math.sqrt(6 / sum(shape))
            weights[name] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        else:
            weights[name] = torch.full(shape, float(name.endswith("norm.weight")))
    return weights


def forward(weights: Weights, config: Seq2SeqConfig, source: Tensor, target: Tensor) -> Tensor:
    """Last hidden states (N, T, width) of one sub-network, on slices of the shared weights."""
    plan: Any = SPACE.plan(config, VOCABULARY)
    padding = torch.zeros(source.shape).masked_fill_(source == PAD, -1e4)[:, None, None]
    causal = torch.full((target.shape[1],) * 2, -1e4).triu(1)
    return hidden(EagerBuilder(), plan.cut(weights), plan.size, source, target, (padding, causal))


class DistilledLoss(torch.autograd.Function):
    """Mean losses (networks,) of hidden states (networks, tokens, width): the first network's on the smoothed
    labels, the others' on the mean of these and the first one's prediction.

    The gradient is formed with the loss, in slabs that fit the cache: a tensor of tokens x words is never
    stored.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        hidden, words = hidden.bfloat16(), embedding.bfloat16()
        count, losses = hidden.shape[1], torch.zeros(len(hidden))
        to_hidden, to_words = torch.empty_like(hidden), torch.zeros_like(embedding)
        for start in range(0, count, 512):
            slab = slice(start, start + 512)
            target = torch.full((len(labels[slab]), len(words)), SMOOTHING / len(words))
            target.scatter_add_(1, labels[slab, None], torch.full((len(target), 1), 1 - SMOOTHING))
            for i, states in enumerate(hidden[:, slab]):
                logits = (states @ words.T).float()
                log_sum = logits.logsumexp(1, keepdim=True)
                losses[i] += log_sum.sum() - torch.dot(target.flatten(), logits.flatten())
                predicted = logits.sub_(log_sum).exp_()
                error = ((predicted - target) / count).bfloat16()
                to_hidden[i, slab] = error @ words
                to_words += error.T @ states
                if i == 0 and len(hidden) > 1:
                    target.add_(predicted).mul_(0.5)
        ctx.save_for_backward(to_hidden, to_words)
        return losses / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        to_hidden, to_words = ctx.saved_tensors
        return to_hidden.float() * gradient[:, None, None], to_words * gradient[0], None


# --- training -----------------------------------------------------------------------------------------------


def draw_students(rng: np.random.Generator, step: int, progress: float) -> list[Seq2SeqConfig]:
    if progress < LARGEST_ONLY:
        return []
    return [SPACE.smallest if step % 2 else SPACE.random(rng)]


def rate(progress: float, peak: float) -> float:
    if progress < 0.03:
        return peak * max(progress, 0.001) / 0.03
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97)))


def load_tokenizer(work: Path, pairs: list[tuple[str, str]], seed: int) -> Tokenizer:
    file = work / "tokenizer.json"
    if not file.exists():
        drawn = list(itertools.islice(commands(seed), len(pairs) // 5))
        texts = [text for pair in itertools.chain(pairs, drawn) for text in pair]
        compact = json.dumps(
            json.loads(train_tokenizer(texts).to_str()), separators=(",", ":"), ensure_ascii=False
        )
        write_atomically(file, compact.encode())
    return Tokenizer.from_file(str(file))


@dataclass
class State:
    """All that a run needs to go on. spent_s: seconds of training; pool: of ``batches``."""

    weights: Weights
    average: Weights
    optimiser: torch.optim.Optimizer
    step: int = 0
    pairs: int = 0
    spent_s: float = 0.0
    pool: int = 0

    def save(self, folder: Path, tokenizer: str) -> None:
        """A checkpoint to go on from, then the weights file with the average."""
        counts = {name: getattr(self, name) for name in COUNTS}
        weights = {name: value.detach() for name, value in self.weights.items()}
        arrays = {"weights": weights, "average": self.average, "optimiser": self.optimiser.state_dict()}
        checkpoint = io.BytesIO()
        torch.save({**counts, **arrays}, checkpoint)
        write_atomically(folder / "checkpoint.pt", checkpoint.getvalue())
        self.save_weights(folder / f"{SPACE.name}.safetensors", tokenizer)

    def save_weights(self, file: Path, tokenizer: str) -> None:
        """The average alone."""
        half = {name: value.half().contiguous() for name, value in self.average.items()}
        about = {"space": SPACE.name, TOKENIZER: tokenizer, "pairs": str(self.pairs)}
        write_atomically(file, save(half, about))

    def load(self, file: Path) -> None:
        """Go on from a checkpoint."""
        saved = torch.load(file, weights_only=True)
        for name in COUNTS:
            setattr(self, name, saved[name])
        self.optimiser.load_state_dict(saved["optimiser"])
        with torch.no_grad():
            for name in self.weights:
                self.weights[name].copy_(saved["weights"][name])
                self.average[name].copy_(saved["average"][name])


def new_state(seed: int, learning_rate: float) -> State:
    weights = {name: value.requires_grad_() for name, value in initial_weights(seed).items()}
    average = {name: value.detach().clone() for name, value in weights.items()}
    matrices, vectors = ([v for v in weights.values() if (v.ndim > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    return State(weights, average, optimiser)


def train_step(
    state: State,
    configs: list[Seq2SeqConfig],
    source: Tensor,
    target: Tensor,
    lr: float,
    averaging: float = AVERAGING,
) -> np.ndarray:
    """One update; returns the losses of the networks."""
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    labels = target[:, 1:]
    kept = labels != PAD
    with torch.autocast("cpu", torch.bfloat16):
        states = torch.stack([forward(state.weights, c, source, target[:, :-1])[kept] for c in configs])
    losses = DistilledLoss.apply(states, state.weights[SPACE.head], labels[kept])
    state.optimiser.zero_grad(set_to_none=True)
    losses.sum().backward()
    torch.nn.utils.clip_grad_norm_(state.weights.values(), 1.0)
    state.optimiser.step()
    state.step, state.pairs = state.step + 1, state.pairs + len(source)
    decay = min(averaging, state.step / (state.step + 10))
    values = [value.detach() for value in state.weights.values()]
    torch._foreach_lerp_(list(state.average.values()), values, 1 - decay)
    return losses.detach().numpy()


# --- the last phase -----------------------------------------------------------------------------------------


def translated(weights: Path, sentences: list[str]) -> list[tuple[str, str]]:
    """Sentences with their translations by the largest network, beam 4."""
    net = load_supernet(SPACE.name, weights)
    text, run = load_text(net.weights), net.prepare(SPACE.largest, threads=1, processor="cpu")
    found = []
    for sentence in sentences:
        *_, last = generate(run, text.encode(sentence), GERMAN)
        found.append((sentence, text.decode(last.tokens)))
    return found


def distilled(work: Path, sentences: list[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """So many translations by the largest network, made once, in two processes."""
    file = work / "distilled.tsv"
    if not file.exists():
        order = np.random.default_rng([seed, 13]).permutation(len(sentences))[:count]
        halves = [[sentences[i][0] for i in order[n::2]] for n in range(2)]
        weights = [work / f"{SPACE.name}.safetensors"] * 2
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            rows = [row for half in pool.map(translated, weights, halves) for row in half if row[1]]
        write_atomically(file, "".join(f"{source}\t{target}\n" for source, target in rows).encode())
    return read_pairs(file, ALL, 0)


def finish(args: argparse.Namespace, state: State, tokenizer: Tokenizer, own: list[tuple[str, str]]) -> None:
    """Train on own translations and on commands, at a falling rate."""
    drawn = batches(tokenizer, encoded(tokenizer, own, GERMAN), args.seed + 1, args.tokens, 0)
    first = next(drawn)  # of a pool that takes seconds to draw, which are not training
    start = reported = time.monotonic()
    for step, (_, source, target) in enumerate(itertools.chain([first], drawn)):
        progress = (time.monotonic() - start) / (60 * args.finish)
        if progress >= 1:
            return
        rng = np.random.default_rng([args.seed, 17, step])
        student = SPACE.smallest if step % 4 else SPACE.random(rng)
        lr = FINISH_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        losses = train_step(state, [SPACE.largest, student], source, target, lr, FINISH_AVERAGING)
        if time.monotonic() - reported > 20:
            print(f"finish {progress:.1%}, {step} steps: losses {losses.round(3)}", flush=True)
            reported = time.monotonic()


def main() -> None:
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    sentences = read_pairs(args.data / "train.tsv", ALL, 0)
    tokenizer = load_tokenizer(args.work, sentences, args.seed)
    compact = (args.work / "tokenizer.json").read_text(encoding="utf-8")
    state = new_state(args.seed, args.learning_rate)
    if (args.work / "checkpoint.pt").exists():
        state.load(args.work / "checkpoint.pt")
    drawn = batches(tokenizer, encoded(tokenizer, sentences, GERMAN), args.seed, args.tokens, state.pool)
    reported = saved = last = time.monotonic()
    before, steps, losses = state.pairs, 0, np.zeros(2)
    for pool, source, target in drawn:
        progress = max(state.spent_s / (60 * args.minutes), state.pairs / args.pairs)
        if progress >= 1:
            break
        state.pool = pool
        rng = np.random.default_rng([args.seed, 11, state.step])
        configs = [SPACE.largest, *draw_students(rng, state.step, progress)]
        losses[: len(configs)] += train_step(
            state, configs, source, target, rate(progress, args.learning_rate)
        )
        now = time.monotonic()
        state.spent_s, last, steps = state.spent_s + now - last, now, steps + 1
        if now - reported > 20:
            of_largest, of_student = losses / steps
            print(
                f"step {state.step}, {state.pairs} pairs, {progress:.1%}: loss {of_largest:.3f}, "
                f"of the student {of_student:.3f}; {(state.pairs - before) / (now - reported):.0f} pairs/s, "
                f"about {state.spent_s / 60 * (1 / max(progress, 1e-6) - 1):.0f} min left",
                flush=True,
            )
            reported, before, steps, losses = now, state.pairs, 0, np.zeros(2)
        if now - saved > 180:
            state.save(args.work, compact)
            saved = now
    state.save(args.work, compact)
    written = args.work / f"{SPACE.name}.safetensors"
    if args.finish:
        first = {name: value.clone() for name, value in state.average.items()}
        finish(args, state, tokenizer, distilled(args.work, sentences, args.distil, args.seed))
        state.average = {name: first[name].lerp(state.average[name], FINISH_SHARE) for name in first}
        written = written.with_stem(f"{SPACE.name}_finished")
        state.save_weights(written, compact)
    print(f"wrote {written}")


if __name__ == "__main__":
    main()
