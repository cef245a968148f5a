"""One honest case of every kind of task: range of each kind of commitment, embed, layer (SGD, AdamW with clipping, q/k norm), head,
clip, rotate; of a step in two parts update, layer and head. Sizes are the smallest that have everything."""

from dataclasses import replace
from functools import cache

from tests.support.architectures import feature_toy
from tests.support.stage import Case, Stage
from tests.toy import EVEN, toy

SMALL = {"window_steps": 1, "batch_size": 1, "sequence_length": 2, "examples": 2, "target_modules": ("q_proj",)}
CLIPPED = {"kind": "adamw", "weight_decay": "0.01", "max_grad_norm": "0.5", "schedule": "cosine", "warmup_steps": 1}


@cache
def stage(name: str) -> Stage:
    if name == "sgd":
        found = toy(layers=2, steps=2, sizes=EVEN, **SMALL)  # type: ignore[arg-type]
        return Stage(replace(found, manifest=replace(found.manifest, rotation_windows=1)))
    if name == "adamw":
        return Stage(toy(layers=1, steps=2, sizes=EVEN, **SMALL, **CLIPPED))  # type: ignore[arg-type]
    if name == "parts":
        parted = SMALL | {"gradient_accumulation": 2, "parts": 2}
        return Stage(toy(layers=1, steps=2, sizes=EVEN, **parted, **CLIPPED))  # type: ignore[arg-type]
    return Stage(feature_toy(name, EVEN, steps=1, **SMALL))


# name → (stage, kind, window, layer, part)
KINDS: dict[str, tuple[str, str, int, int, int]] = {
    "range of base": ("sgd", "range", -1, -1, 0), "range of dataset": ("sgd", "range", -1, -1, 2),
    "range of embedding": ("sgd", "range", -1, -1, 3), "range of head": ("sgd", "range", -1, -1, 4),
    "range of a tied head": ("qwen2", "range", -1, -1, 3), "range of row scales": ("rows", "range", -1, -1, 0),
    "embed": ("sgd", "embed", 0, -1, 0), "head": ("sgd", "head", 1, -1, 0), "clip": ("adamw", "clip", 0, -1, 0),
    "layer, first window": ("sgd", "layer", 0, 0, 0), "layer, last window": ("sgd", "layer", 1, 1, 0),
    "layer, AdamW with clipping": ("adamw", "layer", 1, 0, 0), "layer with biases": ("qwen2", "layer", 0, 0, 0),
    "layer with q/k norm": ("qwen3", "layer", 0, 0, 0),
    "embed of a part": ("parts", "embed", 0, -1, 2), "layer of a part": ("parts", "layer", 1, 0, 1),
    "head of a part": ("parts", "head", 1, -1, 1), "head of the last part": ("parts", "head", 1, -1, 2),
    "update, first window": ("parts", "update", 0, 0, 0), "update, last window": ("parts", "update", 1, 0, 0),
    "rotate base": ("sgd", "rotate", 1, -1, 0), "rotate dataset": ("sgd", "rotate", 1, -1, 2),
}


@cache
def case(name: str) -> Case:
    of, kind, window, layer, part = KINDS[name]
    return stage(of).case(kind, window, layer, part)
