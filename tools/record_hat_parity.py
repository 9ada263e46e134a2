#!/usr/bin/env python3
"""Record what the official HAT answers, for test/supernet/test_hat.py.

    python tools/record_hat_parity.py HAT

The argument is a checkout of github.com/mit-han-lab/hardware-aware-transformers; it needs nothing but torch
and tqdm. Weights, sentences and configurations are those of test/helpers/hat_reference.py; only the answers
are kept. Parts of fairseq that need compiled modules are left out: data sets and the command line.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
import types
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "helpers"))
import hat_reference as reference

from dynofa_ros.supernet.families.hat import END, LAYERS, PAD, QKV, SPACES, STORED_EMBED, HatConfig, HatSpace


class Dictionary:
    """The vocabulary as the generator asks for it."""

    def __init__(self, words: int) -> None:
        self.words = words

    def __len__(self) -> int:
        return self.words

    def pad(self) -> int:
        return PAD

    def eos(self) -> int:
        return END

    def unk(self) -> int:
        return 3


def import_official(folder: Path) -> tuple[Any, Any]:
    """The modules of the model and of the generator."""
    package = types.ModuleType("fairseq")
    package.__path__ = [str(folder / "fairseq")]
    sys.modules["fairseq"] = package
    for name, members in {"options": {}, "data": {"Dictionary": Dictionary}}.items():
        module = types.ModuleType(f"fairseq.{name}")
        module.__dict__.update(members)
        sys.modules[module.__name__] = module
        setattr(package, name, module)
    import fairseq.models.transformer_super as model
    import fairseq.sequence_generator as generator

    divide = torch.div

    def whole(x: torch.Tensor, y: Any, out: torch.Tensor) -> torch.Tensor:
        # old torch rounded down when all were integers
        return divide(x, y, rounding_mode="floor", out=out)

    generator.search.torch = types.SimpleNamespace(**{**vars(torch), "div": whole})
    return model, generator


def official(model: Any, space: HatSpace) -> Any:
    """The supernet of a space with the arguments of the published one."""
    trained, tied = space.trained, space.trained.source_words is None
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        sides |= {
            f"{side}_embed_dim": STORED_EMBED,
            f"{side}_ffn_embed_dim": trained.ffns[-1],
            f"{side}_layers": LAYERS,
            f"{side}_attention_heads": trained.heads[-1],
        }
    args = Namespace(
        **sides, qkv_dim=QKV, share_all_embeddings=tied, get_attn=False, vocab_original_scaling=False
    )
    target = Dictionary(reference.WORDS)
    source = target if tied else Dictionary(trained.source_words or 0)
    task = types.SimpleNamespace(source_dictionary=source, target_dictionary=target)
    net = model.TransformerSuperModel.build_model(args, task)
    drawn = {name: torch.from_numpy(array) for name, array in reference.weights(space).items()}
    net.load_state_dict(drawn, strict=True)
    net.eval()
    net.decoder.layers.apply(lambda m: setattr(m, "need_attn", False) if hasattr(m, "need_attn") else None)
    return net


def arguments(config: HatConfig) -> dict[str, Any]:
    """A configuration as the official code takes it."""
    return {
        "encoder": {
            "encoder_embed_dim": config.encoder_embed[0],
            "encoder_layer_num": LAYERS,
            "encoder_ffn_embed_dim": list(config.encoder_ffn),
            "encoder_self_attention_heads": list(config.encoder_heads),
        },
        "decoder": {
            "decoder_embed_dim": config.decoder_embed[0],
            "decoder_layer_num": config.decoder_depth[0],
            "decoder_ffn_embed_dim": list(config.decoder_ffn),
            "decoder_self_attention_heads": list(config.decoder_heads),
            "decoder_ende_attention_heads": list(config.cross_heads),
            "decoder_arbitrary_ende_attn": [{1: -1, 2: 1, 3: 2}[span] for span in config.spans],
        },
    }


def forced(net: Any) -> np.ndarray:
    """Log-probabilities (2, T, words) of the target for both sources in one batch, left-padded."""
    longest = max(map(len, reference.SOURCES))
    sources = torch.tensor([[PAD] * (longest - len(row)) + row for row in reference.SOURCES])
    targets = torch.tensor([reference.TARGET] * 2)
    output = net.decoder(targets, net.encoder(sources, None))
    return np.asarray(net.get_normalized_probs(output, log_probs=True))


def incremental(net: Any) -> np.ndarray:
    """Log-probabilities (T, words) of the target for the first source, token by token."""
    read, state = net.encoder(torch.tensor(reference.SOURCES[:1]), None), dict[Any, Any]()
    rows = []
    for length in range(1, len(reference.TARGET) + 1):
        output = net.decoder(torch.tensor([reference.TARGET[:length]]), read, incremental_state=state)
        rows.append(net.get_normalized_probs(output, log_probs=True)[0, -1].numpy())
    return np.array(rows)


def found(generator: Any, net: Any, beam: int, penalty: float) -> list[dict[str, Any]]:
    """The best output for each source."""
    rules = {"beam_size": beam, "max_len_b": reference.MAX_LENGTH - 1, "len_penalty": penalty}
    search, best = generator.SequenceGenerator(Dictionary(reference.WORDS), **rules), []
    for source in reference.SOURCES:
        net_input = {"src_tokens": torch.tensor([source]), "src_lengths": torch.tensor([len(source)])}
        outputs, _ = search.generate([net], {"net_input": net_input})
        best.append({"tokens": outputs[0][0]["tokens"].tolist(), "score": outputs[0][0]["score"]})
    return best


def record(model: Any, generator: Any, name: str) -> None:
    """Write the answers for every configuration of a space, with its number of parameters."""
    space = reference.space(name)
    net, rows = official(model, space), []
    arrays: dict[str, list[np.ndarray]] = {"forced": [], "incremental": []}
    started = time.perf_counter()
    for config, penalty in zip(reference.configurations(space), itertools.cycle(reference.PENALTIES)):
        params = net.get_sampled_params_numel(arguments(config))
        with torch.inference_mode():
            arrays["forced"].append(forced(net))
            arrays["incremental"].append(incremental(net))
            outputs = found(generator, net, config.beam, penalty)
        own = {"config": config.to_dict(), "penalty": penalty}
        rows.append({**own, "params": params, "found": outputs})
    reference.FOLDER.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (reference.FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    recorded: dict[str, Any] = {n: np.array(a, np.float32) for n, a in arrays.items()}
    np.savez_compressed(reference.FOLDER / f"{name}.npz", **recorded)
    lengths = Counter(len(output["tokens"]) for row in rows for output in row["found"])
    print(f"{name}: {len(rows)} sub-networks, {time.perf_counter() - started:.0f} s")
    print(f"outputs by length: {sorted(lengths.items())}")


if __name__ == "__main__":
    modules = import_official(Path(sys.argv[1]).resolve())
    for space_name in SPACES:
        record(*modules, space_name)
