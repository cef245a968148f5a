"""The same training in floating point with autograd, for calibration: which magnitudes occur where.

Weights are the dequantised base arrays, so nothing but the rounding of activations, gradients and state differs from
the integer run. Optimizer, clipping and accumulation are torch's (torch.optim, clip_grad_norm_; gradients of token sums
over the whole step's tokens), the learning rates those of protocol/optimizer.py. Every tensor that the relation commits
has a key here, under the name of its exponent; `FloatRun.step` records max|value| per key (and, for softmax, RMSNorm and
clipping, what their scales need). Adapter, optimizer and sums of losses are float64; base weights and activations are what the
caller says: float32 shows the magnitudes in a third of the time. Called by prover/executor/calibrate.py and quantisation.py.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from protocol.manifest import RunManifest
from protocol.relation.base import axis_sizes, bias_name
from protocol.relation.graph import IntArray
from protocol.relation.lora import BEHIND_NORM, IN_AXES, OUT_AXES, WEIGHT
from protocol.relation.tables import GUARD
from protocol.relation.update import axes_of
from protocol.rope import frequencies
from protocol.streams import MASTER_BITS, initial_lora_a

Base = Mapping[str, Mapping[str, IntArray]]
TOKENS = 1024  # at a time, in whole sequences
QUERIES = 512  # at a time against the keys before them: of long sequences the half of all scores that nobody sees is not computed


def sequences_at_a_time(rows: torch.Tensor, length: int) -> tuple[torch.Tensor, ...]:
    """`rows`, one for each sequence of `length` tokens, in groups whose activations fit in memory."""
    return torch.split(rows, max(1, TOKENS // length))


def dequantised(
    exponents: Mapping[str, int], name: str, group: Mapping[str, IntArray], dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """The real tensors of one base commitment, scales by row multiplied in."""
    real = {k: torch.from_numpy(v).to(dtype) * 2.0 ** -exponents[f"{name}/{k}"] for k, v in group.items()}
    for k in [k for k in real if f"{k}.scale" in real]:
        scale = real.pop(f"{k}.scale")
        real[k] *= scale.reshape(*scale.shape, *[1] * (real[k].dim() - scale.dim()))
    return real


class Dequantised(Mapping[str, dict[str, torch.Tensor]]):
    """The real tensors of the commitments in `base` on a device; the group asked for last is kept."""

    def __init__(self, exponents: Mapping[str, int], base: Base, device: str, dtype: torch.dtype) -> None:
        self.exponents, self.base, self.device, self.dtype = exponents, base, device, dtype
        self._last: tuple[str, dict[str, torch.Tensor]] = "", {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        if self._last[0] != name:
            self._last = "", {}  # not both in memory
            made = dequantised(self.exponents, name, self.base[name], self.dtype)
            self._last = name, {k: x.to(self.device) for k, x in made.items()}
        return self._last[1]


class FloatModel:
    """The decoder in the floats of `base`, its magnitudes noted. `base` as `dequantised`, all in `dtype`; of it only what is asked for
    need be there."""

    def __init__(
        self, manifest: RunManifest, base: Mapping[str, Mapping[str, torch.Tensor]], device: str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.m, self.size, self.base, self.device, self.dtype = manifest, axis_sizes(manifest), base, device, dtype
        self.maxima: dict[str, float] = {}
        self.traced: list[tuple[str, torch.Tensor]] = []
        self.sums: dict[str, torch.Tensor] = {}
        n, k = manifest.lora.scale
        self.scale = n * 2.0**-k
        self.angles = self._angles()

    def _angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.m.model
        exact = frequencies(x.head_dim, x.theta, x.scaling)
        frequency = torch.tensor([f / 2**GUARD for f in exact], dtype=torch.float64)
        angle = torch.arange(self.m.sequence_length, dtype=torch.float64)[:, None] * frequency
        both = torch.cat([angle, angle], dim=1)
        return both.cos().to(self.device, self.dtype), both.sin().to(self.device, self.dtype)

    def note(self, key: str, value: torch.Tensor) -> None:
        """Where gradients are wanted; a pass without them computes the same values for one with them (`FloatRun.step`)."""
        if torch.is_grad_enabled():
            low, high = torch.aminmax(value.detach())  # writes nothing, unlike |value|
            self.maxima[key] = max(self.maxima.get(key, 0.0), float(high), -float(low))

    def trace(self, key: str, gradient: str, value: torch.Tensor) -> torch.Tensor:
        """Records `value` under `key` now and its gradient under `gradient` after the backward pass."""
        if key:
            self.note(key, value)
        if gradient and value.requires_grad:
            value.retain_grad()
            self.traced.append((gradient, value))
        return value

    def norm(self, key: str, h: torch.Tensor) -> torch.Tensor:
        total = (h * h).sum(-1) + h.shape[-1] * float(self.m.model.eps)
        r = (total / h.shape[-1]).rsqrt()
        self.note(f"{key}.sum", total)
        self.note(f"{key}.r", r)
        return self.trace(f"{key}.out", f"{key}.dx", h * r[..., None])

    def project(self, layer: int, module: str, x: torch.Tensor, leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The projection with its LoRA term, if `leaves` has the module's matrices."""
        i, o, p, base = IN_AXES[module], OUT_AXES[module], f"layer/{layer}/{module}", self.base[f"base/{layer}"]
        y = torch.einsum(f"bt{i},{o}{i}->bt{o}", x, base[WEIGHT[module]])
        if module in self.m.model.biased:
            y = y + base[bias_name(module)]
        if f"{layer}/{module}.lora_A" in leaves:
            a, b = (leaves[f"{layer}/{module}.{matrix}"].to(self.dtype) for matrix in ("lora_A", "lora_B"))
            if module in BEHIND_NORM:
                a = a * base[BEHIND_NORM[module]]
            self.trace(f"{p}.lora_A.copy", f"{p}.lora_A.grad", a)
            u = self.scale * self.trace("", f"{p}.du", torch.einsum(f"bt{i},r{i}->btr", x, a))
            self.note(f"{p}.u", u)
            self.trace("", f"{p}.lora_B.grad", b)
            y = y + torch.einsum(f"btr,{o}r->bt{o}", u, b)
        return y

    def turned(self, layer: int, name: str, y: torch.Tensor) -> torch.Tensor:
        """q or k from its projection: q/k norm, RoPE."""
        p = f"layer/{layer}/"
        y = self.trace(f"{p}{name}_proj.y", f"{p}d{name}", y)
        if self.m.model.qk_norm:
            y = self.norm(f"{p}{name}_norm", y) * self.base[f"base/{layer}"][f"gamma_{name}"]
            self.trace("", f"{p}{name}_norm.dy", y)
        return self.rope(y)

    def rope(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        cos, sin = (a.reshape(a.shape[0], *[1] * (x.dim() - 3), a.shape[1]) for a in self.angles)
        return x * cos + turned * sin

    def attention(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """[b,t,g,q,j] from q [b,t,g,q,j] and k, v [b,t,g,j], some queries at a time, in the order of their places."""
        p, bands = f"layer/{layer}/", list[torch.Tensor]()
        for first in range(0, q.shape[1], QUERIES):
            rows = q[:, first : first + QUERIES]
            stop = first + rows.shape[1]
            scores = self.trace("", p + "dS", torch.einsum("btgqj,bugj->bgqtu", rows, k[:, :stop]))
            future = torch.ones(rows.shape[1], stop, dtype=torch.bool, device=self.device).triu(first + 1)
            probability = self.softmax(p + "attn", scores, future)
            bands.append(torch.einsum("bgqtu,bugj->btgqj", probability, v[:, :stop]))
        return torch.cat(bands, dim=1)

    def softmax(self, key: str, scores: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        """Of all scores but the future ones. Noted: how far the least of them lies below log Σ exp, which is the largest less its log p."""
        masked = scores.masked_fill(future, -torch.inf)
        probability = torch.softmax(masked, dim=-1)
        if torch.is_grad_enabled():
            least = scores.detach().masked_fill(future, torch.inf).amin(dim=-1)
            self.note(f"{key}.spread", masked.detach().amax(dim=-1) - probability.detach().amax(dim=-1).log() - least)
        return probability

    def layer(self, layer: int, x: torch.Tensor, leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
        p, d = f"layer/{layer}/", self.m.model.head_dim
        n1 = self.norm(p + "attn_norm", x)
        zq, zk = (self.project(layer, module, n1, leaves) for module in ("q_proj", "k_proj"))
        v = self.trace(p + "v", p + "dv", self.project(layer, "v_proj", n1, leaves))
        q, k = self.turned(layer, "q", zq) * d**-0.5, self.turned(layer, "k", zk)
        self.note(p + "q", q)
        self.note(p + "k", k)
        out = self.trace("", p + "dO", self.attention(layer, q, k, v))
        step1 = self.project(layer, "o_proj", out, leaves)
        self.note("x", step1)
        h = self.trace("x", p + "dh", x + step1)
        n2 = self.norm(p + "mlp_norm", h)
        gate = self.trace(p + "gate", p + "dgate", self.project(layer, "gate_proj", n2, leaves))
        up = self.trace(p + "up", p + "dup", self.project(layer, "up_proj", n2, leaves))
        z = self.trace(p + "z", p + "dz", torch.nn.functional.silu(gate) * up)
        step2 = self.project(layer, "down_proj", z, leaves)
        self.note("x", step2)
        return self.trace("x", f"dx/{layer + 1}", h + step2)

    def token_loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """−log p of the labels [b,t] after the last layer's output x."""
        logits = torch.einsum("btd,vd->btv", self.norm("head/norm", x), self.base["head"]["W"])
        log_p = torch.log_softmax(logits, dim=-1)
        self.note("head/vocab.spread", log_p)
        return -log_p.gather(-1, labels[..., None]).squeeze(-1)


class FloatRun(FloatModel):
    """LoRA training from the manifest's initial adapter, one layer and some sequences at a time: memory holds a layer's
    weights, activations of TOKENS tokens, the layers' inputs, and the adapter with its optimizer state."""

    def __init__(
        self, manifest: RunManifest, base: Base, tokens: IntArray, mask: IntArray, device: str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(manifest, Dequantised(manifest.exponents, base, device, dtype), device, dtype)
        self.tokens, self.mask = torch.from_numpy(tokens).to(device), torch.from_numpy(mask).double().to(device)
        self.adapter: dict[str, torch.Tensor] = {}
        for layer in range(manifest.model.layers):
            for module in manifest.lora.target_modules:
                shape = tuple(self.size[a] for a in axes_of(module, "lora_A"))
                start = initial_lora_a(manifest.seed, layer, module, shape) * 2.0**-MASTER_BITS
                self.adapter[f"{layer}/{module}.lora_A"] = torch.from_numpy(start).to(device)
                b_shape = [self.size[a] for a in axes_of(module, "lora_B")]
                self.adapter[f"{layer}/{module}.lora_B"] = torch.zeros(b_shape, dtype=torch.float64, device=device)
        for matrix in self.adapter.values():
            matrix.requires_grad_()
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        o, matrices = self.m.optimizer, list(self.adapter.values())
        if o.kind == "sgd":
            return torch.optim.SGD(matrices, float(o.learning_rate), float(o.momentum))
        betas = (float(o.beta1), float(o.beta2))
        return torch.optim.AdamW(matrices, float(o.learning_rate), betas, float(o.epsilon), float(o.weight_decay))

    def step(self, k: int) -> float:
        """One optimizer step on batch k; returns the mean token loss before it."""
        self.traced = []
        self.optimizer.zero_grad()
        index = torch.from_numpy(np.array(self.m.batch(k))).to(self.device)
        groups = sequences_at_a_time(index, self.m.sequence_length)
        inputs = [[self.base["embedding"]["E"][self.tokens[rows, :-1]] for rows in groups]]
        with torch.no_grad():
            for layer in range(self.m.model.layers):
                inputs.append([self.layer(layer, x, self.adapter) for x in inputs[-1]])
        gradients, total = list[torch.Tensor | None](), 0.0
        for rows, x in zip(groups, inputs.pop(), strict=True):
            self.trace("x", f"dx/{self.m.model.layers}", x.requires_grad_())
            loss = (self.token_loss(x, self.tokens[rows, 1:]) * self.mask[rows]).sum()
            self.backward(loss)
            gradients.append(x.grad)
            total += float(loss.detach())
        for layer in reversed(range(self.m.model.layers)):  # its values anew: the same operations on the same numbers
            for n, x in enumerate(inputs.pop()):
                self.trace("x", f"dx/{layer}", x.requires_grad_())
                self.backward(self.layer(layer, x, self.adapter), gradients[n])
                gradients[n] = x.grad
        tokens = float(self.mask[index].sum())
        for matrix in self.adapter.values():
            if matrix.grad is not None:
                matrix.grad /= tokens
        self.update(k)
        return total / tokens

    def backward(self, value: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
        """Gradients of everything traced since the last call, and their magnitudes; those of matrices are sums over a step."""
        torch.autograd.backward(value, gradient)
        for key, traced in self.traced:
            if traced.grad is not None and key.endswith(".grad"):  # a leaf's is a sum already
                before = None if traced.is_leaf else self.sums.get(key)
                self.sums[key] = traced.grad.clone() if before is None else before + traced.grad
            elif traced.grad is not None:
                self.note(key, traced.grad)
        self.traced = []

    def update(self, k: int) -> None:
        """The optimizer's step k from the mean gradients in `.grad`."""
        for key in list(self.sums):
            self.note(key, self.sums.pop(key))
        o, squares = self.m.optimizer, [0.0] * self.m.model.layers
        for name, matrix in self.adapter.items():
            if matrix.grad is None:
                continue
            self.note(f"layer/{name}.mean", matrix.grad)
            rows = matrix.grad.square().sum(dim=0 if name.endswith("lora_A") else 1)
            self.note("norm.row", rows)
            squares[int(name.split("/")[0])] += float(rows.sum())
        self.maxima["norm.layer"] = max(self.maxima.get("norm.layer", 0.0), *squares)
        if o.clips:
            torch.nn.utils.clip_grad_norm_(self.adapter.values(), float(o.max_grad_norm))
            for name, matrix in self.adapter.items():
                if matrix.grad is not None:
                    self.note(f"layer/{name}.clipped", matrix.grad)
        for group in self.optimizer.param_groups:
            group["lr"] = o.rate(k, self.m.steps) * 2.0**-GUARD
        self.optimizer.step()
        for name, matrix in self.adapter.items():
            buffer = self.optimizer.state[matrix].get("momentum_buffer")
            if buffer is not None:
                self.note(f"layer/{name}.momentum", buffer)
