"""Toy runs for tests: a small random model and dataset with a calibrated manifest; odd sizes on purpose."""

from dataclasses import dataclass, replace

import numpy as np

from protocol.manifest import VERSION, WIDTHS, Lora, RunManifest
from protocol.model_config import PROJECTIONS, ModelConfig
from protocol.optimizer import Optimizer
from protocol.relation.graph import IntArray
from protocol.relation.model import commitment_tensors
from prover.executor.calibrate import calibrate

ODD = {"vocab": 23, "hidden": 12, "heads": 6, "kv_heads": 2, "head_dim": 4, "ffn": 10}
EVEN = {"vocab": 16, "hidden": 8, "heads": 2, "kv_heads": 1, "head_dim": 4, "ffn": 8}


@dataclass(frozen=True)
class Toy:
    """base: {"base/0": {"W_q": int64 …}, …, "embedding": {"E"}, "head": {"W"}}; dataset arrays; calibrated manifest."""

    manifest: RunManifest
    base: dict[str, dict[str, IntArray]]
    tokens: IntArray
    mask: IntArray


def toy(
    layers: int = 1, steps: int = 2, window_steps: int = 2, sizes: dict[str, int] | None = None, batch_size: int = 2,
    gradient_accumulation: int = 1, sequence_length: int = 5, examples: int = 6, r: int = 2, lora_alpha: int = 4,
    use_rslora: bool = False, target_modules: tuple[str, ...] = PROJECTIONS, seed: int = 7, publish_loss: bool = True,
    rotation_windows: int = 0, parts: int = 1, extra_headroom: int = 0, **optimizer: object,
) -> Toy:
    """A toy run, deterministic in its arguments; `optimizer` has the fields of Optimizer, by default SGD with momentum."""
    rng = np.random.default_rng(seed)
    model = ModelConfig(layers=layers, rms_eps="0.00001", rope_theta="10000", tied=0, **(sizes or ODD))
    tokens = rng.integers(0, model.vocab, (examples, sequence_length + 1))
    mask = (np.arange(sequence_length)[None] < rng.integers(2, sequence_length + 1, examples)[:, None]).astype(np.int64)
    draft = RunManifest(
        version=VERSION, name="toy", model=model, lora=Lora(r, lora_alpha, target_modules, use_rslora),
        optimizer=toy_optimizer(**optimizer), batch_size=batch_size, gradient_accumulation=gradient_accumulation,
        parts=parts, sequence_length=sequence_length, steps=steps, window_steps=window_steps, seed=seed, examples=examples,
        loss_tokens=(1,) * steps, publish_loss=publish_loss, base_visibility="private", weight_scales="tensor", dataset_owner="",
        rotation_windows=rotation_windows, tokenizer_digest="0" * 64, widths=dict(WIDTHS), exponents={}, profile="toy",
        commitments={}, budgets={},
    )
    counts = tuple(int(mask[draft.batch(k)].sum()) for k in range(steps))
    base: dict[str, dict[str, IntArray]] = {}
    exponents: dict[str, int] = {}
    for name in [f"base/{n}" for n in range(layers)] + ["embedding", "head"]:
        base[name] = {}
        for tensor, shape in commitment_tensors(draft, name):
            bits = {"embedding": 16}.get(name, 16 if tensor.startswith("gamma") else 12)
            top = (1 << bits - 1) - 1
            if tensor.startswith("gamma"):
                base[name][tensor] = rng.integers(top // 2, top, shape)
            else:
                base[name][tensor] = rng.integers(-top, top + 1, shape)
            exponents[f"{name}/{tensor}"] = bits - 2 if tensor.startswith("gamma") else bits
    draft = replace(draft, loss_tokens=counts, exponents=exponents)
    found = calibrate(draft, base, tokens, mask, 4, extra_headroom).exponents
    return Toy(replace(draft, exponents=found), base, tokens, mask)


def toy_optimizer(**fields: object) -> Optimizer:
    sgd = {"momentum": "0.9"} if fields.get("kind", "sgd") == "sgd" else {}
    return Optimizer(**{"kind": "sgd", "learning_rate": "0.02"} | sgd | fields)  # type: ignore[arg-type]


def toy_manifest(**arguments: object) -> RunManifest:
    return toy(**arguments).manifest  # type: ignore[arg-type]
