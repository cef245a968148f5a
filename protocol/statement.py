"""What each task of a run states, and how tasks hang together.

The list of tasks, the role of each commitment in each task, and every commitment's layout are functions of the
manifest. Commitments have names, "base/0", "x/1@3" (layer 1's input in window 3) or "x/1/2@3" (its second part), and one id per name:
that one tensor is what one task writes and the next reads is the whole chain. A statement is recomputed by the verifier,
relation digest included; only published values are taken from the record, and they are bound by the proof.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.encoding import canonical_json, tagged_digest
from protocol.errors import VerificationError
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest, StepRange, base_commitments
from protocol.params import Params, profile
from protocol.relation.graph import Graph, IntArray
from protocol.relation.model import build, commitment_tensors

BUDGETS = ("adapter", "base", "clip", "dataset", "delivered", "dx", "embedding", "gradient", "head", "loss", "norm", "state", "x")


@dataclass(frozen=True)
class Name:
    """A commitment's name; `window` is −1 for those known at the start, for their copies the first window that opens them."""

    base: str
    window: int = -1

    def __str__(self) -> str:
        return self.base if self.window < 0 else f"{self.base}@{self.window}"

    @property
    def kind(self) -> str:
        return self.base.split("/")[0]

    @property
    def layer(self) -> int:
        """The layer that it belongs to; −1 without one."""
        return int(self.base.split("/")[1]) if "/" in self.base and self.kind != "loss" else -1


@dataclass(frozen=True)
class Task:
    """One provable task: kind, window (−1: once per run), layer (−1: none), part, and (role, commitment) in order. `part` is that of
    a step's sequences from 1 on, 0 for all of them; of range and rotate tasks the commitment's number."""

    kind: str
    window: int
    layer: int
    part: int
    commitments: tuple[tuple[str, Name], ...]

    def __str__(self) -> str:
        if self.kind in ("range", "rotate"):
            return f"{self.kind}({self.commitments[0 if self.kind == 'range' else -1][1]})"
        place = f"{self.kind}({self.window})" if self.layer < 0 else f"{self.kind}({self.window}, {self.layer})"
        return f"{place} part {self.part}" if self.part else place

    @property
    def subject(self) -> int | str:
        """The layer, or for range and rotate the commitment's name, as `build` wants it."""
        return self.commitments[0][1].base if self.kind in ("range", "rotate") else max(self.layer, 0)

    def graph(self, manifest: RunManifest) -> Graph:
        window = manifest.windows()[self.window] if self.window >= 0 else None
        return build(manifest, self.kind, window, self.subject, part=self.part)


def standing(manifest: RunManifest, base: str, window: int) -> Name:
    """The copy of a start commitment that a window opens: what rotations have led to by then."""
    every = manifest.rotation_windows
    rotates = every > 0 and not (base.split("/")[0] in PUBLIC_BASE and manifest.base_visibility == "public")
    return Name(base, window // every * every) if rotates and window >= every else Name(base)


def task_list(manifest: RunManifest) -> list[Task]:
    """Every task of the run: all of them together are the claim that the run happened."""
    tied = (("embedding", Name("embedding")),) if manifest.model.tied else ()
    tasks = [
        Task("range", -1, -1, part, ((name.split("/")[0], Name(name)), *(tied if name == "head" else ())))
        for part, name in enumerate(base_commitments(manifest.model))
    ]
    last, layers, parts = len(manifest.windows()) - 1, manifest.model.layers, manifest.part_numbers
    for w in range(last + 1):
        tasks += [
            Task("rotate", w, -1, part, (("old", standing(manifest, base, w - 1)), ("new", standing(manifest, base, w))))
            for part, base in enumerate(base_commitments(manifest.model)) if standing(manifest, base, w).window == w
        ]
        dataset, embedding, head = (standing(manifest, base, w) for base in ("dataset", "embedding", "head"))
        tasks += [Task("embed", w, -1, p, (("dataset", dataset), ("embedding", embedding), ("x_out", part_of("x/0", p, w)))) for p in parts]
        for layer in range(layers):
            state_in = [("state_in", Name(f"state/{layer}", w))] if w > 0 else []
            state_out = [("norm", Name(f"norm/{layer}", w)), ("clip", Name("clip", w))] if manifest.optimizer.clips else []
            state_out.append(("state_out", Name(f"state/{layer}", w + 1)))
            state_out += [("delivered", Name(f"delivered/{layer}", w + 1))] if w == last else []
            adapter, gradients = ("adapter", Name(f"adapter/{layer}", w)), {p: part_of(f"gradient/{layer}", p, w) for p in parts}
            for p in parts:
                roles = [("base", standing(manifest, f"base/{layer}", w)), *([adapter] if p else state_in)]
                roles += [("x_in", part_of(f"x/{layer}", p, w)), ("dx_in", part_of(f"dx/{layer + 1}", p, w))]
                roles += [("x_out", part_of(f"x/{layer + 1}", p, w)), *([("dx_out", part_of(f"dx/{layer}", p, w))] if layer > 0 else [])]
                tasks.append(Task("layer", w, layer, p, (*roles, *([("gradient", gradients[p])] if p else state_out))))
            if manifest.parts > 1:
                summed = [(f"gradient{p}", name) for p, name in gradients.items()]
                tasks.append(Task("update", w, layer, 0, (*state_in, *summed, adapter, *state_out)))
        if manifest.optimizer.clips:
            norms = [(f"norm{layer}", Name(f"norm/{layer}", w)) for layer in range(layers)]
            tasks.append(Task("clip", w, -1, 0, (*norms, ("clip", Name("clip", w)))))
        for p in parts:
            top = [("x_in", part_of(f"x/{layers}", p, w)), ("dx_out", part_of(f"dx/{layers}", p, w))]
            sums = [("loss", part_of("loss", p, w))] if p < parts[-1] else [(f"loss{q}", part_of("loss", q, w)) for q in parts[:-1]]
            tasks.append(Task("head", w, -1, p, (("dataset", dataset), ("head", head), *top, *sums)))
    return tasks


def part_of(base: str, part: int, window: int) -> Name:
    """The commitment of one part of a step's sequences, or of all of them (0)."""
    return Name(f"{base}/{part}" if part else base, window)


def opening_counts(manifest: RunManifest) -> dict[str, int]:
    """How many tasks open a commitment of each kind, at most: the least a budget must hold."""
    counts: dict[Name, int] = {}
    for task in task_list(manifest):
        for _, name in task.commitments:
            counts[name] = counts.get(name, 0) + 1
    out = dict.fromkeys(BUDGETS, 1)
    for name, count in counts.items():
        out[name.kind] = max(out[name.kind], count)
    return out


def window_of(manifest: RunManifest, name: Name) -> StepRange | None:
    windows = manifest.windows()
    return windows[name.window] if 0 <= name.window < len(windows) else None


def commitment_layout(manifest: RunManifest, name: Name) -> CommitmentLayout:
    """The layout that the commitment of this name must have."""
    if name.kind not in manifest.budgets:
        raise VerificationError("manifest", f"budgets.{name.kind}", "a number of openings", "missing")
    params, budget = profile(manifest.profile), manifest.budgets[name.kind]
    if not 1 <= budget <= params.max_openings:
        raise VerificationError("manifest", f"budgets.{name.kind}", f"1 … {params.max_openings} ({params.name})", str(budget))
    if name.kind in PUBLIC_BASE and manifest.base_visibility == "public":
        budget = 0
    label = manifest.tokenizer_digest if name.kind == "dataset" else ""
    return CommitmentLayout.pack(commitment_tensors(manifest, name.base, window_of(manifest, name)), params.code(budget), label)


PUBLIC_BASE = ("base", "embedding", "head")  # without blinding when the base model is public: openings are unlimited


def max_blinding(manifest: RunManifest, params: Params) -> int:
    """The largest number of blinding coefficients of any commitment of the run."""
    if sorted(manifest.budgets) != sorted(BUDGETS) or min(manifest.budgets.values()) < 1:
        raise VerificationError("manifest", "budgets", f"at least 1 for {BUDGETS}", str(manifest.budgets))
    return params.queries * max(manifest.budgets.values())


def statement_id(manifest: RunManifest, task: Task) -> str:
    """Deterministic: two attempts at one task are the same row."""
    place = canonical_json([task.kind, task.window, task.layer, task.part])
    return tagged_digest("statement/1", manifest.digest().encode(), place).hex()


def statement_content(
    manifest: RunManifest, task: Task, relation_digest: str, ids: Mapping[str, str], published: Mapping[str, IntArray]
) -> bytes:
    """The canonical bytes that open the task's transcript."""
    return canonical_json({
        "version": 1, "manifest": manifest.digest(), "profile": manifest.profile, "kind": task.kind, "window": task.window,
        "layer": task.layer, "part": task.part, "relation": relation_digest,
        "commitments": [[role, str(name), ids[str(name)]] for role, name in task.commitments],
        "published": {name: values.tolist() for name, values in sorted(published.items())},
    })
