"""One decoder layer, every step of a window: forward, backward and optimizer update (protocol.md 1, `layer(w, l)`).

    h = x + attention(norm(x)),  x_out = h + mlp(norm(h));  then the chain rule backwards, emitting a gradient only if
    somebody needs it: an adapter of this layer or, above layer 0, dx_out

Inputs: base (weights), state_in (adapter; public in the first window), x_in, dx_in [s,b,t,d]. Outputs: x_out, dx_out
(not in layer 0), state_out, in the last window delivered; with clipping also the input clip and the output norm. One part of
each step has instead of state, clip and norm the input adapter and the output gradient (parts.py). Called by model.py.
"""

from protocol.relation.attention import attention, attention_backward
from protocol.relation.base import axis_sizes, base_input, base_weight, bias_name
from protocol.relation.clip import settle
from protocol.relation.context import Context, Fixed
from protocol.relation.lora import BEHIND_NORM, WEIGHT, Adapter, Projection, project, project_backward
from protocol.relation.mlp import mlp, mlp_backward
from protocol.relation.norm import norm_backward, norm_forward
from protocol.relation.parts import adapter_input, gamma_names, hand_on
from protocol.relation.rounding import commit_copy, exact_copy
from protocol.relation.update import MATRICES, Parameter, axes_of, compute_copy, master, mean_gradient


def build_layer(c: Context, layer: int, initial: bool, final: bool) -> None:
    """Adds the layer to `c.g`."""
    size, targets, split = axis_sizes(c.m), c.m.lora.target_modules, c.m.parts > 1
    weights = {m: base_weight(c, f"base/{layer}", w, bias_name(m)) for m, w in WEIGHT.items()}
    gammas = {name: base_input(c, f"base/{layer}", name) for name in gamma_names(c.m)}
    gamma_q, gamma_k = (base_input(c, f"base/{layer}", n) if c.m.model.qk_norm else None for n in ("gamma_q", "gamma_k"))
    x = c.input("x_in", "x", "sbtd", (*c.rows, size["d"]), "residual", "/x")
    dx = c.input("dx_in", "dx", "sbtd", (*c.rows, size["d"]), "gradient", f"/dx/{layer + 1}")

    gamma_of = {m: gammas.get(BEHIND_NORM.get(m, "")) for m in targets}
    parameters, adapters = dict[str, Parameter](), {}
    for m in targets:
        copies = []
        for matrix in MATRICES:
            shape = tuple(size[a] for a in axes_of(m, matrix))
            if split:
                steps = adapter_input(c, m, matrix, shape)
            else:
                p = parameters[f"{m}.{matrix}"] = master(c, layer, m, matrix, shape, initial)
                steps = p.steps
            copies.append(compute_copy(c, f"{m}.{matrix}", steps, gamma_of[m] if matrix == "lora_A" else None))
        adapters[m] = Adapter(*copies)
    projections: dict[str, Projection] = {}
    means: list[tuple[Parameter, Fixed]] = []

    def forward(module: str, value: Fixed) -> list[Fixed]:
        projections[module], terms = project(c, module, value, weights[module], adapters.get(module))
        return terms

    norm1 = norm_forward(c, "attn_norm", x)
    zq, zk, zv = (forward(m, norm1.out) for m in ("q_proj", "k_proj", "v_proj"))
    att = attention(c, zq, zk, zv, gamma_q, gamma_k)
    step1 = c.rounded("attn_increment", "sbtd", forward("o_proj", att.out), "residual", to=x.f)
    h = c.add("h", "sbtd", x, step1)
    norm2 = norm_forward(c, "mlp_norm", h)
    gate, up = forward("gate_proj", norm2.out), forward("up_proj", norm2.out)
    swiglu = mlp(c, gate, up)
    step2 = c.rounded("mlp_increment", "sbtd", forward("down_proj", swiglu.z), "residual", to=x.f)
    commit_copy(c.g, c.add("x_sum", "sbtd", h, step2).t, c.m.widths["residual"], "x", "x_out")

    below = layer > 0
    need = {m: below or m in targets for m in ("q_proj", "k_proj", "v_proj")}
    need_out = any(need.values())
    need_h = need_out or "o_proj" in targets
    need |= {m: need_h or m in targets for m in ("gate_proj", "up_proj")}
    need_mlp = need["gate_proj"] or need["up_proj"]

    def backward(module: str, dy: Fixed | None, need_dx: bool) -> list[Fixed]:
        if dy is None:
            return []
        terms, gradients = project_backward(c, projections[module], dy, need_dx)
        for matrix, exact in gradients.items():
            if split:
                hand_on(c, layer, module, matrix, exact)
            else:
                p = parameters[f"{module}.{matrix}"]
                means.append((p, mean_gradient(c, p, exact, gamma_of[module] if matrix == "lora_A" else None)))
        return terms

    terms = backward("down_proj", dx, need_mlp)
    if need_mlp:
        dz = c.rounded("dz", "sbtf", terms, "gradient")
        d_gate, d_up = mlp_backward(c, swiglu, dz, need["gate_proj"], need["up_proj"])
        terms = backward("gate_proj", d_gate, need_h) + backward("up_proj", d_up, need_h)
    if need_h:
        d_norm = c.rounded("mlp_norm.dx", "sbtd", terms, "gradient")
        dh = norm_backward(c, "mlp_norm", norm2, d_norm, dx, "dh", c.exponent("dh"))
        terms = backward("o_proj", dh, need_out)
    if need_out:
        d_out = c.rounded("dO", "sbtgqj", terms, "gradient")
        dqkv = attention_backward(c, att, d_out, need["q_proj"], need["k_proj"], need["v_proj"])
        terms = [x for m, dy in zip(("q_proj", "k_proj", "v_proj"), dqkv, strict=True) for x in backward(m, dy, below)]
    if below:
        d_norm = c.rounded("attn_norm.dx", "sbtd", terms, "gradient")
        norm_backward(c, "attn_norm", norm1, d_norm, dh, "dx_out", c.exponent(f"/dx/{layer}"), "dx_out", "dx")

    if split:
        for name, gamma in gammas.items():
            exact_copy(c.g, gamma.t, name, gamma.t.magnitude, "gradient")
    else:
        settle(c, means, initial, final)
