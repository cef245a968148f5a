"""The architecture that a run is about, as it stands in the manifest: integers and exact decimal strings.

    head_dim · heads = rows of q_proj,  head_dim · kv_heads = rows of k_proj and v_proj,  query head h = g·Q + q

with g a kv head and Q = heads / kv_heads query heads in its group (Hugging Face's repeat_kv order). `rms_eps` and
`rope_theta` are canonical decimals ("0.00001", "10000"), so every party computes from the same rational number.
One decoder with four features covers Llama, Mistral, Qwen2 and Qwen3: `bias` names the projections that have one
("q_proj,k_proj,v_proj" in Qwen2), `qk_norm` is 1 where each head of q and k passes an RMSNorm before RoPE (Qwen3),
`rope_scaling` is "" or "llama3:factor:low_freq_factor:high_freq_factor:original_max_position_embeddings" (Llama 3.1).
Called by prover/files (which reads config.json), the relation, and the verifier (which reads manifests).
"""

import re
from dataclasses import dataclass, fields
from fractions import Fraction

from protocol.errors import VerificationError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,29})(\.[0-9]{0,29}[1-9])?")
# Caps bound what a verifier builds from a small hostile manifest; far above every LLaMA.
_LARGEST = {"vocab": 2**20, "hidden": 2**18, "layers": 2**10, "heads": 2**10, "kv_heads": 2**10, "head_dim": 2**10, "ffn": 2**18}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder as LlamaForCausalLM, with SiLU gates and full attention."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    rms_eps: str
    rope_theta: str
    tied: int  # 1: the head is the embedding table
    bias: str = ""
    qk_norm: int = 0
    rope_scaling: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int"):
                lowest, highest = (1, _LARGEST[field.name]) if field.name in _LARGEST else (0, 1)
                if type(value) is not int or not lowest <= value <= highest:
                    raise _invalid(field.name, f"an integer from {lowest} to {highest}", value)
            elif field.name == "bias":
                if type(value) is not str or value != ",".join(self.biased):
                    raise _invalid(field.name, f"some of {','.join(PROJECTIONS)} in this order", value)
            elif field.name == "rope_scaling":
                if type(value) is not str or value and not _llama3(value):
                    raise _invalid(field.name, "empty, or llama3 with factor ≥ 1, 0 < low < high, context", value)
            elif type(value) is not str or not _DECIMAL.fullmatch(value) or not Fraction(value):
                raise _invalid(field.name, "a positive decimal in canonical form", value)
        if self.theta < 1:  # an angle above π would also keep its Taylor series busy for ever
            raise _invalid("rope_theta", "at least 1", self.rope_theta)
        if self.heads % self.kv_heads:
            raise _invalid("kv_heads", f"a divisor of heads = {self.heads}", self.kv_heads)
        if self.head_dim % 2:
            raise _invalid("head_dim", "an even integer (RoPE turns pairs)", self.head_dim)

    @property
    def queries_per_group(self) -> int:
        """Q, the query heads that share one kv head."""
        return self.heads // self.kv_heads

    @property
    def eps(self) -> Fraction:
        return Fraction(self.rms_eps)

    @property
    def theta(self) -> Fraction:
        return Fraction(self.rope_theta)

    @property
    def biased(self) -> tuple[str, ...]:
        """The projections with a bias."""
        return tuple(p for p in PROJECTIONS if p in self.bias.split(","))

    @property
    def scaling(self) -> tuple[Fraction, ...]:
        """(factor, low, high, context) of llama3's frequency scaling, or ()."""
        return tuple(Fraction(x) for x in self.rope_scaling.split(":")[1:])

    def projection_shape(self, name: str) -> tuple[int, int]:
        """(d_out, d_in) of one of PROJECTIONS, as Hugging Face stores it; lora_A is [r, d_in], lora_B [d_out, r]."""
        q, k = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "q_proj": (q, self.hidden), "k_proj": (k, self.hidden), "v_proj": (k, self.hidden),
            "o_proj": (self.hidden, q), "gate_proj": (self.ffn, self.hidden), "up_proj": (self.ffn, self.hidden),
            "down_proj": (self.hidden, self.ffn),
        }
        return shapes[name]

    def to_manifest(self) -> dict[str, int | str]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_manifest(cls, value: object) -> "ModelConfig":
        """Raises VerificationError unless `value` has exactly the fields above with valid values."""
        names = sorted(field.name for field in fields(cls))
        if not isinstance(value, dict) or sorted(map(str, value)) != names:
            found = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise VerificationError("malformed model configuration", "model", f"keys {names}", f"{found}")
        return cls(**value)


def _llama3(text: str) -> bool:
    kind, *numbers = text.split(":")
    if kind != "llama3" or len(numbers) != 4 or not all(map(_DECIMAL.fullmatch, numbers)):
        return False
    factor, low, high, context = map(Fraction, numbers)
    return factor >= 1 and 0 < low < high and context > 0


def _invalid(name: str, expected: str, actual: object) -> VerificationError:
    return VerificationError("malformed model configuration", f"model.{name}", expected, repr(actual)[:80])
