"""Every supported architecture against transformers and PEFT: the same losses, the same gradients of the adapter.

Models are random and tiny, saved by transformers and read as a user's folder is. The float model is compared with
transformers in float64, the integer training with transformers and PEFT in fp32.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protocol.manifest import WIDTHS, StepRange
from protocol.model_config import PROJECTIONS, ModelConfig
from protocol.relation.graph import Graph, IntArray, RelationError
from protocol.relation.model import build
from protocol.statement import opening_counts, task_list
from protocol.streams import MASTER_BITS
from prover.executor.evaluate import check
from prover.executor.quantisation import quantisation_error
from prover.executor.reference import ReferenceOps
from prover.executor.torch_ops import TorchOps
from prover.executor.trainer import Trainer
from prover.witness.task import task_values
from tests.support.architectures import FEATURES, feature_toy, saved, toy_of
from tests.toy import EVEN, Toy, toy

torch.set_num_threads(1)  # on a busy machine two spinning threads are slower than one

SMALL = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 36, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
ODD = {"vocab_size": 1003, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
       "intermediate_size": 250, "num_hidden_layers": 1}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("Llama", {}),
    "llama 3, biases": ("Llama", {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "mistral, own head_dim": ("Mistral", {"sliding_window": None, "head_dim": 10}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "odd widths": ("Llama", ODD),
}
RUN = {"steps": 3, "window_steps": 2, "batch_size": 2, "sequence_length": 12, "r": 4, "lora_alpha": 6, "momentum": "0",
       "learning_rate": "0.5"}


@dataclass(frozen=True)
class Trained:
    """After two steps of integer training: the adapter, and the gradients that the third step used."""

    toy: Toy
    reference: Any
    opened: Any
    loss: float
    adapter: dict[str, IntArray]
    gradients: dict[str, IntArray]


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    kind, config = MODELS[request.param]
    reference, opened = saved(tmp_path_factory.mktemp("model"), kind, **SMALL | config)
    return train(toy_of(opened, **RUN), reference, opened)


def train(t: Toy, reference: Any = None, opened: Any = None) -> Trained:
    trainer, m, losses = Trainer(t.manifest, t.base, t.tokens, t.mask), t.manifest, []
    first = trainer.run_window(StepRange(0, 2), None, lambda _, loss: losses.append(loss))
    second = trainer.run_window(StepRange(2, 1), first.state_out)
    before = {f"{n}/{k}": v for n, group in first.state_out.items() for k, v in group.items()}
    after = {f"{n}/{k}": v for n, group in second.state_out.items() for k, v in group.items()}
    assert {k.split(".")[1] for k in before} == {"lora_A", "lora_B"} and len(before) == 14 * m.model.layers
    return Trained(t, reference, opened, losses[0], before, {k: before[k] - after[k] for k in before})


def batch(t: Toy, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = t.manifest.batch(step)
    return torch.from_numpy(t.tokens[index]), torch.from_numpy(t.mask[index])


def mean_loss(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids[:, :-1]).logits
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (each * mask.flatten()).sum() / mask.sum()


def test_float_model_is_transformers(trained: Trained) -> None:
    t = trained.toy
    found = quantisation_error(trained.opened, t.manifest, t.base, t.tokens, t.mask, batches=1)
    with torch.no_grad():
        expected = float(mean_loss(trained.reference, *batch(t, 0)))
    assert abs(found.stored - expected) < 1e-5 * expected
    assert 0 < abs(found.relative) < 2e-3


def test_integer_loss_follows_transformers(trained: Trained) -> None:
    with torch.no_grad():
        expected = float(mean_loss(trained.reference, *batch(trained.toy, 0)))
    assert abs(trained.loss - expected) < 2e-3 * expected


def peft_gradients(trained: Trained) -> dict[str, torch.Tensor]:
    """Gradients of the adapter after two steps, on the third batch, by PEFT's autograd in fp32."""
    from peft import LoraConfig, get_peft_model

    lora = trained.toy.manifest.lora
    config = LoraConfig(r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(PROJECTIONS), lora_dropout=0.0)
    model, names = get_peft_model(trained.reference, config), {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            parts = name.split(".")
            key = f"{parts[parts.index('layers') + 1]}/{parts[-4]}.{parts[-3]}"
            value = trained.adapter[key] * 2.0**-MASTER_BITS
            with torch.no_grad():
                weight.copy_(torch.from_numpy(value.reshape(weight.shape)))
            names[key] = weight
    mean_loss(model, *batch(trained.toy, 2)).backward()
    model.unload()
    return {key: weight.grad for key, weight in names.items()}


def test_adapter_gradients_follow_peft(trained: Trained) -> None:
    expected = peft_gradients(trained)
    assert expected.keys() == trained.gradients.keys()
    for key, gradient in expected.items():
        a, b = trained.gradients[key].ravel().astype(float), gradient.double().numpy().ravel()
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        ratio = np.sqrt((a @ a) / (b @ b)) / (0.5 * 2**MASTER_BITS)
        assert cosine > 0.999 and 0.98 < ratio < 1.02, (key, cosine, ratio)


def test_odd_widths_by_reference_and_torch(tmp_path: Path) -> None:
    _, opened = saved(tmp_path, "Llama", **SMALL | ODD)
    t = toy_of(opened, **RUN | {"batch_size": 1, "sequence_length": 5})
    traces = [Trainer(t.manifest, t.base, t.tokens, t.mask, ops).run_window(StepRange(0, 1)) for ops in (TorchOps(), ReferenceOps())]
    for n in range(t.manifest.model.layers):
        for name, value in traces[0].state_out[n].items():
            assert np.array_equal(value, traces[1].state_out[n][name]), name
    assert np.array_equal(traces[0].dx[1], traces[1].dx[1])


@pytest.mark.parametrize("name", FEATURES)
def test_features_by_reference_and_torch(name: str) -> None:
    """Two layers, so that gradients pass through biases, norms and scales of one to the other; every assertion holds."""
    t = feature_toy(name, EVEN, layers=2, steps=2, window_steps=2, sequence_length=4)
    window = t.manifest.windows()[0]
    traces = [Trainer(t.manifest, t.base, t.tokens, t.mask, ops).run_window(window) for ops in (TorchOps(), ReferenceOps())]
    for n in range(2):
        assert all(np.array_equal(v, traces[1].state_out[n][k]) for k, v in traces[0].state_out[n].items())
    trace, dataset = traces[0], {("dataset", "tokens"): t.tokens, ("dataset", "mask"): t.mask}
    groups = [*t.base, "dataset"]
    tasks: list[tuple[str, int | str, dict[tuple[str, str], IntArray]]] = [
        ("layer", n, {("x_in", "x"): trace.x[n], ("dx_in", "dx"): trace.dx[n + 1]} | of(t, f"base/{n}")) for n in range(2)]
    tasks += [("head", 0, {("x_in", "x"): trace.x[2]} | dataset | of(t, "head")), ("embed", 0, dataset | of(t, "embedding"))]
    tasks += [("range", g, dataset if g == "dataset" else of(t, g) | of(t, "embedding")) for g in groups]
    for kind, layer, inputs in tasks:
        graph, values = task_values(t.manifest, kind, None if kind == "range" else window, layer, inputs, every=True)
        check(graph, dict(enumerate(values)))


def of(t: Toy, name: str) -> dict[tuple[str, str], IntArray]:
    return {(name.split("/")[0], k): v for k, v in t.base[name].items()}


LARGE: dict[str, dict[str, Any]] = {  # sizes from the models' config.json
    "Llama-2-7B": {"vocab": 32000, "hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "ffn": 11008},
    "Llama-2-13B": {"vocab": 32000, "hidden": 5120, "heads": 40, "kv_heads": 40, "head_dim": 128, "ffn": 13824},
    "Llama-3-8B": {"vocab": 128256, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336,
                   "rope_theta": "500000", "rope_scaling": "llama3:8:1:4:8192"},
    "Mistral-7B": {"vocab": 32768, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336},
    "Qwen2.5-7B": {"vocab": 152064, "hidden": 3584, "heads": 28, "kv_heads": 4, "head_dim": 128, "ffn": 18944,
                   "rope_theta": "1000000", "bias": "q_proj,k_proj,v_proj"},
    "Qwen3-8B": {"vocab": 151936, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 12288,
                 "rope_theta": "1000000", "qk_norm": 1},
}


class Plausible(dict[str, int]):
    """Exponents as calibration finds them for models of this size: by the last part of the key."""

    def __init__(self, weight: int) -> None:
        self.weight = weight

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> int:
        name = key.split("/")[-1]
        if name[:2] in ("W_", "W", "E") or name == "W":
            return 0 if name.endswith(".scale") else self.weight
        last = name.split(".")[-1]
        known = {"x": 12, "V": 14, "r": 14, "g": 9, "out": 8, "y": 15, "du": 20, "grad": 18, "mean": 24, "copy": 13, "gate": 11,
                 "up": 11, "z": 9, "q": 11, "k": 9, "v": 11, "u": 11}
        return 13 if name.startswith("gamma") else 10 if name.startswith("b_") else known.get(last, 16)


def graph_of(name: str, scales: str, bits: int, finest: int, kind: str, **changes: int) -> Graph:
    """One step of one sequence of 2,048 tokens, rank 48 and lora_alpha/r = 4/3; no values are computed."""
    values = {"rms_eps": "0.00001", "rope_theta": "10000", "tied": 0} | LARGE[name] | changes
    m = toy(steps=3, window_steps=1, batch_size=1, r=48, lora_alpha=64, examples=4).manifest
    m = replace(m, model=ModelConfig(layers=2, **values), sequence_length=2048, weight_scales=scales,
                widths=WIDTHS | {"weight": bits, "head": bits}, exponents={})
    object.__setattr__(m, "exponents", Plausible(finest))
    return build(m, kind, StepRange(1, 1), 1 if kind == "layer" else 0)


@pytest.mark.parametrize(("scales", "bits", "finest"), [("tensor", 16, 18), ("row", 12, 21)])
@pytest.mark.parametrize("name", LARGE)
def test_bounds_hold_for_large_models(name: str, scales: str, bits: int, finest: int) -> None:
    for kind in ("layer", "head"):
        graph = graph_of(name, scales, bits, finest, kind)
        assert max(t.magnitude for t in graph.tensors) < 1 << 62


def test_bounds_are_refused_where_they_do_not_hold() -> None:
    with pytest.raises(RelationError, match="the limit is 2\\^62"):
        graph_of("Llama-2-7B", "row", 12, 21, "head", vocab=1 << 20)


def test_only_a_tied_head_is_compared_with_the_embedding() -> None:
    for name, roles, openings in (("qwen2", ["head", "embedding"], 3), ("rows", ["head"], 2)):
        m = feature_toy(name, EVEN, steps=1, window_steps=1).manifest
        task = next(t for t in task_list(m) if str(t) == "range(head)")
        assert [role for role, _ in task.commitments] == roles and opening_counts(m)["embedding"] == openings
