"""Model configurations in manifests: exact round trip, everything else refused."""

from fractions import Fraction

import pytest

from protocol.errors import VerificationError
from protocol.model_config import PROJECTIONS, ModelConfig

CONFIG = ModelConfig(300, 60, 2, 6, 3, 10, 100, "0.00001", "10000", 1)
LLAMA3 = "llama3:8:1:4:8192"


def test_round_trip_and_shapes() -> None:
    assert ModelConfig.from_manifest(CONFIG.to_manifest()) == CONFIG
    assert CONFIG.queries_per_group == 2 and CONFIG.eps * 10**5 == 1 and CONFIG.theta == 10000
    shapes = [CONFIG.projection_shape(name) for name in PROJECTIONS]
    assert shapes == [(60, 60), (30, 60), (30, 60), (60, 60), (100, 60), (100, 60), (60, 100)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab", 0), ("vocab", True), ("vocab", "300"), ("vocab", 2**31), ("layers", 2.0), ("layers", 2**10 + 1),
        ("kv_heads", 4), ("head_dim", 9),
        ("tied", 2), ("tied", False), ("rms_eps", "1e-5"), ("rms_eps", "0.000010"), ("rms_eps", "0"), ("rms_eps", "-1"),
        ("rms_eps", 1), ("rope_theta", "010"), ("rope_theta", "10000.0"), ("rope_theta", "1\n"), ("rope_theta", "9" * 31),
        ("rope_theta", "0.9"),
        ("bias", "v_proj,q_proj"), ("bias", "q_proj,"), ("bias", "q_proj,q_proj"), ("bias", "norm"), ("bias", None), ("qk_norm", 2),
        ("qk_norm", True), ("rope_scaling", None), ("rope_scaling", "yarn:8:1:4:8192"), ("rope_scaling", LLAMA3 + ":1"),
        ("rope_scaling", "llama3:8:1:4"), ("rope_scaling", "llama3:8.0:1:4:8192"), ("rope_scaling", "llama3:0.5:1:4:8192"),
        ("rope_scaling", "llama3:8:4:4:8192"), ("rope_scaling", "llama3:8:0:4:8192"), ("rope_scaling", "llama3:8:1:4:0"),
    ],
)
def test_malformed_values_are_refused(key: str, value: object) -> None:
    with pytest.raises(VerificationError) as caught:
        ModelConfig.from_manifest(CONFIG.to_manifest() | {key: value})
    assert caught.value.where == f"model.{key}"


@pytest.mark.parametrize(("key", "largest", "step"), [
    ("vocab", 1 << 20, 1), ("hidden", 1 << 18, 1), ("layers", 1 << 10, 1), ("heads", 1 << 10, 1), ("kv_heads", 1 << 10, 1),
    ("head_dim", 1 << 10, 2), ("ffn", 1 << 18, 1),
])
def test_the_largest_model(key: str, largest: int, step: int) -> None:
    """What a verifier builds from a few bytes of a manifest has a limit."""
    wide = CONFIG.to_manifest() | {"heads": 1 << 10, "kv_heads": 1}
    assert getattr(ModelConfig.from_manifest(wide | {key: largest}), key) == largest
    with pytest.raises(VerificationError, match=f"model.{key}"):
        ModelConfig.from_manifest(wide | {key: largest + step})


def test_the_smallest_values_are_accepted() -> None:
    smallest = {"rope_theta": "1", "rope_scaling": "llama3:1:0.5:0.75:0.5"}
    assert ModelConfig.from_manifest(CONFIG.to_manifest() | smallest).scaling == (1, Fraction(1, 2), Fraction(3, 4), Fraction(1, 2))


def test_features() -> None:
    features = {"bias": "q_proj,v_proj", "qk_norm": 1, "rope_scaling": "llama3:8.5:1:4:8192"}
    config = ModelConfig.from_manifest(CONFIG.to_manifest() | features)
    assert config.biased == ("q_proj", "v_proj") and CONFIG.biased == () and CONFIG.qk_norm == 0
    assert config.scaling == (Fraction(17, 2), 1, 4, 8192) and CONFIG.scaling == ()


@pytest.mark.parametrize("value", [None, [], {}, CONFIG.to_manifest() | {"more": 1}])
def test_other_keys_are_refused(value: object) -> None:
    with pytest.raises(VerificationError):
        ModelConfig.from_manifest(value)
