"""Orders: compared as text, any subset of keys, the first difference named."""

import pytest

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from tests.toy import toy
from verifier.order import compare_order


@pytest.fixture(scope="module")
def manifest() -> RunManifest:
    return toy(steps=1, window_steps=1).manifest


def test_agreeing_values_are_counted(manifest: RunManifest) -> None:
    order = {"seed": "7", "lora": {"r": 2, "lora_alpha": "4"}, "publish_loss": "true"}
    assert compare_order(manifest, order) == ["seed", "lora.r", "lora.lora_alpha", "publish_loss"]
    assert compare_order(manifest, {"lora": {"target_modules": list(manifest.lora.target_modules)}}) == ["lora.target_modules"]


@pytest.mark.parametrize(("order", "where"), [
    ({"seed": "8"}, "seed"),
    ({"optimizer": {"learning_rate": "0.020"}}, "optimizer.learning_rate"),
    ({"lora": {"r": "2", "colour": "red"}}, "lora.colour"),
    ({"lora": "2"}, "lora"),
    ({"seed": {"value": "7"}}, "seed"),
    ({}, "order"),
])
def test_the_first_difference_is_named(manifest: RunManifest, order: dict, where: str) -> None:
    with pytest.raises(VerificationError) as caught:
        compare_order(manifest, order)
    assert caught.value.reason == "order" and caught.value.where.rstrip(".") == where
