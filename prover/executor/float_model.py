"""The same training in float64 with autograd, for calibration: which magnitudes occur where.

Weights are the dequantised base arrays, so nothing but the rounding of activations, gradients and state differs from
the integer run. Every tensor that the relation commits has a key here, under the name of its exponent; `FloatRun.step`
records max|value| per key (and, for softmax and RMSNorm, what their scales need). Called by prover/executor/calibrate.py.
"""

from collections.abc import Mapping

import numpy as np
import torch

from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from protocol.relation.layer import axis_sizes
from protocol.relation.lora import BEHIND_NORM, IN_AXES, OUT_AXES, WEIGHT
from protocol.relation.update import axes_of
from protocol.streams import MASTER_BITS, initial_lora_a

Base = Mapping[str, Mapping[str, IntArray]]


class FloatRun:
    """LoRA training in float64 from the manifest's initial adapter."""

    def __init__(self, manifest: RunManifest, base: Base, tokens: IntArray, mask: IntArray) -> None:
        self.m, self.size = manifest, axis_sizes(manifest)
        self.tokens, self.mask = torch.from_numpy(tokens), torch.from_numpy(mask).double()
        self.base = {name: {k: torch.from_numpy(v).double() * 2.0 ** -manifest.exponents[f"{name}/{k}"]
                            for k, v in group.items()} for name, group in base.items()}
        self.adapter: dict[str, torch.Tensor] = {}
        for layer in range(manifest.model.layers):
            for module in manifest.lora.target_modules:
                shape = tuple(self.size[a] for a in axes_of(module, "lora_A"))
                start = initial_lora_a(manifest.seed, layer, module, shape) * 2.0**-MASTER_BITS
                self.adapter[f"{layer}/{module}.lora_A"] = torch.from_numpy(start)
                b_shape = [self.size[a] for a in axes_of(module, "lora_B")]
                self.adapter[f"{layer}/{module}.lora_B"] = torch.zeros(b_shape, dtype=torch.float64)
        self.momentum = {k: torch.zeros_like(v) for k, v in self.adapter.items()}
        self.maxima: dict[str, float] = {}
        self.traced: list[tuple[str, str, torch.Tensor]] = []
        n, k = manifest.lora.scale
        self.scale = n * 2.0**-k
        self.angles = self._angles()

    def _angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.m.model
        i = torch.arange(x.head_dim // 2, dtype=torch.float64)
        frequency = float(x.theta) ** (-2 * i / x.head_dim)
        angle = torch.arange(self.m.sequence_length, dtype=torch.float64)[:, None] * frequency
        both = torch.cat([angle, angle], dim=1)
        return both.cos(), both.sin()

    def note(self, key: str, value: torch.Tensor) -> None:
        self.maxima[key] = max(self.maxima.get(key, 0.0), float(value.detach().abs().max()))

    def trace(self, key: str, gradient: str, value: torch.Tensor) -> torch.Tensor:
        """Records `value` under `key` now and its gradient under `gradient` after the backward pass."""
        if key:
            self.note(key, value)
        if gradient:
            if value.requires_grad:
                value.retain_grad()
            self.traced.append((gradient, key, value))
        return value

    def norm(self, key: str, h: torch.Tensor) -> torch.Tensor:
        total = (h * h).sum(-1) + h.shape[-1] * float(self.m.model.eps)
        r = (total / h.shape[-1]).rsqrt()
        self.note(f"{key}.sum", total)
        self.note(f"{key}.r", r)
        return self.trace(f"{key}.out", f"{key}.dx", h * r[..., None])

    def project(self, layer: int, module: str, x: torch.Tensor, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
        i, o, p = IN_AXES[module], OUT_AXES[module], f"layer/{layer}/{module}"
        y = torch.einsum(f"bt{i},{o}{i}->bt{o}", x, self.base[f"base/{layer}"][WEIGHT[module]])
        if module in self.m.lora.target_modules:
            a = leaves[f"{layer}/{module}.lora_A"]
            if module in BEHIND_NORM:
                a = a * self.base[f"base/{layer}"][BEHIND_NORM[module]]
            self.trace(f"{p}.lora_A.copy", f"{p}.lora_A.grad", a)
            u = self.trace(f"{p}.u", f"{p}.du", torch.einsum(f"bt{i},r{i}->btr", x, a))
            b = leaves[f"{layer}/{module}.lora_B"]
            self.trace("", f"{p}.lora_B.grad", b)
            y = y + self.scale * torch.einsum(f"btr,{o}r->bt{o}", u, b)
        return y

    def rope(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        cos, sin = (a.reshape(a.shape[0], *[1] * (x.dim() - 3), a.shape[1]) for a in self.angles)
        return x * cos + turned * sin

    def softmax(self, key: str, scores: torch.Tensor) -> torch.Tensor:
        lse = scores.logsumexp(dim=-1, keepdim=True)
        finite = torch.where(scores.isinf(), lse, scores)
        self.note(f"{key}.spread", (lse.squeeze(-1) - finite.amin(dim=-1)))
        return (scores - lse).exp()

    def layer(self, layer: int, x: torch.Tensor, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
        p, (d, t) = f"layer/{layer}/", (self.m.model.head_dim, self.m.sequence_length)
        n1 = self.norm(p + "attn_norm", x)
        zq = self.trace("", p + "dq", self.project(layer, "q_proj", n1, leaves))
        zk = self.trace("", p + "dk", self.project(layer, "k_proj", n1, leaves))
        v = self.trace(p + "v", p + "dv", self.project(layer, "v_proj", n1, leaves))
        q, k = self.rope(zq) * d**-0.5, self.rope(zk)
        self.note(p + "q", q)
        self.note(p + "k", k)
        scores = self.trace("", p + "dS", torch.einsum("btgqj,bugj->bgqtu", q, k))
        future = torch.ones(t, t, dtype=torch.bool).triu(1)
        probability = self.softmax(p + "attn", scores.masked_fill(future, -torch.inf))
        out = self.trace("", p + "dO", torch.einsum("bgqtu,bugj->btgqj", probability, v))
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

    def step(self, k: int) -> float:
        """One optimizer step on batch k; returns the mean token loss before it."""
        self.traced = []
        leaves = {n: v.clone().requires_grad_() for n, v in self.adapter.items()}
        index = torch.from_numpy(np.array(self.m.batch(k)))
        ids, mask = self.tokens[index], self.mask[index]
        x = self.base["embedding"]["E"][ids[:, :-1]].requires_grad_()
        self.trace("x", "dx/0", x)
        for layer in range(self.m.model.layers):
            x = self.layer(layer, x, leaves)
        logits = torch.einsum("btd,vd->btv", self.norm("head/norm", x), self.base["head"]["W"])
        log_p = self.softmax("head/vocab", logits).log()
        loss = -(log_p.gather(-1, ids[:, 1:, None]).squeeze(-1) * mask).sum()
        torch.autograd.backward(loss)
        for gradient, _, value in self.traced:
            if value.grad is not None:
                self.note(gradient, value.grad)
        tokens = float(mask.sum())
        for name, leaf in leaves.items():
            if leaf.grad is None:
                continue
            mean = leaf.grad / tokens
            self.note(f"layer/{name}.mean", mean)
            self.momentum[name] = self.m.optimizer.momentum_integer * 2.0**-16 * self.momentum[name] + mean
            self.note(f"layer/{name}.momentum", self.momentum[name])
            rate = self.m.optimizer.lr_integer * 2.0**-self.m.optimizer.lr_exponent
            self.adapter[name] = self.adapter[name] - rate * self.momentum[name]
        return float(loss.detach()) / tokens
