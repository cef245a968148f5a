"""A step whose sequences are proved in several tasks: what these take from the layer's update and hand on to it (decision 30).

    adapter/{l}        [s, …] masters of every step of a window                                       update(w, l) → layer(w, l, p)
    gradient/{l}/{p}   Σ_{b,t} duᵀ·x and Σ_{b,t} dYᵀ·u over the part's sequences, exact; γ of norms   layer(w, l, p) → update(w, l)

    update(w, l)       the sum over parts, rounded once, then mean, clipping and optimizer as in a task that has all sequences

Integers are added before any is rounded, so the number of parts changes no bit of the training. What is handed on equals a tensor
whose bounds follow from range checks in the task that writes it, so it has none of its own. γ comes with the gradients because
opening base/{l} for it once more would cost more than the update. Called by layer.py and model.py.
"""

from protocol.manifest import RunManifest
from protocol.relation.base import axis_sizes
from protocol.relation.clip import settle
from protocol.relation.context import Context, Fixed
from protocol.relation.graph import RelationError, Tensor
from protocol.relation.lora import BEHIND_NORM, DY_EXPONENT, X_EXPONENT
from protocol.relation.rounding import exact_copy
from protocol.relation.update import MATRICES, Parameter, axes_of, changes, master, mean_gradient


def gamma_names(m: RunManifest) -> list[str]:
    """Norms whose γ an adapter meets."""
    return [name for name in ("gamma_attn", "gamma_mlp") if any(BEHIND_NORM.get(target) == name for target in m.lora.target_modules)]


def _master_bound(c: Context) -> int:
    """Of masters inside a window: at its start they have their width, and each step may change them by `delta` bits."""
    w = c.m.widths
    return (1 << w["master"] - 1) + (c.steps.count - 1) * len(changes(c)) * (1 << w["delta"] - 1)


def _gradient_bound(c: Context, matrix: str) -> int:
    """Of a part's sum over sequences and tokens of products of two committed values."""
    w = c.m.widths
    return c.rows[1] * c.rows[2] << w["du" if matrix == "lora_A" else "gradient"] + w["activation"] - 2


def _gradient_exponent(c: Context, layer: int, module: str, matrix: str) -> int:
    if matrix == "lora_A":
        return c.exponent(f"{module}.du") + c.exponent(X_EXPONENT[module])
    return c.exponent(DY_EXPONENT.get(module, f"/dx/{layer + 1}")) + c.exponent(f"{module}.u")


def adapter_input(c: Context, module: str, matrix: str, shape: tuple[int, ...]) -> Tensor:
    """The masters [s, …] of one matrix, as update(w, l) has them."""
    bound = _master_bound(c)
    return c.g.input("adapter", f"{module}.{matrix}", "s" + axes_of(module, matrix), (c.steps.count, *shape), -bound, bound)


def hand_on(c: Context, layer: int, module: str, matrix: str, exact: Fixed) -> None:
    """Commits this part's gradient of one matrix."""
    name, f = f"{module}.{matrix}", _gradient_exponent(c, layer, module, matrix)
    if exact.f != f:
        raise RelationError(f"{name}: the gradient has {exact.f} fractional bits, its update reads {f}")
    exact_copy(c.g, exact.t, name, _gradient_bound(c, matrix), "gradient")


def build_update(c: Context, layer: int, initial: bool, final: bool) -> None:
    """Inputs gradient1 … gradient{parts}, state_in (none in the first window), with clipping clip; outputs adapter, state_out, with
    clipping norm, in the run's last window delivered."""
    g, size, means = c.g, axis_sizes(c.m), list[tuple[Parameter, Fixed]]()
    half = 1 << c.m.widths["gamma"] - 1
    gammas = {name: Fixed(g.input("gradient1", name, "d", (size["d"],), -half, half), c.exponent(f"/base/{layer}/{name}"))
              for name in gamma_names(c.m)}
    for module in c.m.lora.target_modules:
        for matrix in MATRICES:
            p = master(c, layer, module, matrix, tuple(size[a] for a in axes_of(module, matrix)), initial)
            exact_copy(g, p.steps, p.name, _master_bound(c), "adapter")
            bound = _gradient_bound(c, matrix)
            parts = [(1, g.input(f"gradient{n}", p.name, p.steps.axes, p.steps.shape, -bound, bound)) for n in c.m.part_numbers]
            exact = Fixed(g.linear(f"{p.name}.gradient", p.steps.axes, *parts), _gradient_exponent(c, layer, module, matrix))
            means.append((p, mean_gradient(c, p, exact, gammas.get(BEHIND_NORM.get(module, "")) if matrix == "lora_A" else None)))
    settle(c, means, initial, final)
