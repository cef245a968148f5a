"""What the quantisation of the base weights costs: mean token loss of the model before any fine-tuning, with the weights as
stored and with the weights as committed.

Both run in float64 on the run's first batches, layer by layer, so memory holds one layer's weights and the hidden states of
these batches. Called when a run is planned, before training starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from prover.executor.float_model import Base, FloatModel, dequantised, sequences_at_a_time
from prover.files.hf_model import HfModel
from prover.files.quantise import fold, real_layer

Group = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class QuantisationError:
    """Mean token losses over the same tokens."""

    stored: float
    quantised: float

    @property
    def relative(self) -> float:
        """(quantised − stored) / stored."""
        return (self.quantised - self.stored) / self.stored


def quantisation_error(
    model: HfModel, manifest: RunManifest, base: Base, tokens: IntArray, mask: IntArray, batches: int = 2
) -> QuantisationError:
    """`base` and its exponents in `manifest` as of quantise_base, dataset arrays as committed."""

    def stored(name: str) -> Group:
        if name == "embedding":
            found = {"E": model.embedding()}
        elif name == "head":
            found = {"W": fold(model.head(), model.final_norm())}
        else:
            found = real_layer(model.config, model.layer(int(name.split("/")[1])))
        return {k: torch.from_numpy(v).double() for k, v in found.items()}

    def quantised(name: str) -> Group:
        return dequantised(manifest.exponents, name, base[name])

    index = np.concatenate([manifest.batch(k) for k in range(min(batches, manifest.steps))])
    ids, weight = torch.from_numpy(tokens[index]), torch.from_numpy(mask[index]).double()
    return QuantisationError(*(_loss(manifest, source, ids, weight) for source in (stored, quantised)))


@torch.no_grad()
def _loss(manifest: RunManifest, group: Callable[[str], Group], ids: torch.Tensor, mask: torch.Tensor) -> float:
    parts = sequences_at_a_time(ids, manifest.sequence_length)
    embedding = group("embedding")["E"]
    inputs = [embedding[part[:, :-1]] for part in parts]
    del embedding
    for layer in range(manifest.model.layers):
        model = FloatModel(manifest, {f"base/{layer}": group(f"base/{layer}")})
        inputs = [model.layer(layer, x, {}) for x in inputs]
    head = FloatModel(manifest, {"head": group("head")})
    losses = torch.cat([head.token_loss(x, part[:, 1:]) for x, part in zip(inputs, parts, strict=True)])
    return float((losses * mask).sum() / mask.sum())
