"""run.yaml: what a user asks for, checked before anything starts (architecture, "What users see").

Every error names the key, the value found and what would be valid. Numbers that enter the proved training are exact:
learning_rate, momentum and their like are decimals, never binary floats. Relative paths are relative to run.yaml's own folder. Only
the storage section may come from the environment (VERILORA_STORAGE_LEDGER, …_OBJECTS, …_PRIVATE), because it may hold
credentials and changes nothing that is proved. Called by flows/ and cli.py.
"""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from flows.config_errors import ConfigError, describe, read_yaml
from flows.storage_config import StorageConfig
from protocol.errors import VerificationError
from protocol.manifest import Lora
from protocol.optimizer import Optimizer
from storage.derive import SPARE_OPENINGS

TargetModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGET_MODULES: tuple[TargetModule, ...] = get_args(TargetModule)
OPTIMIZER_KEYS = {"sgd": ("momentum",), "adamw": ("beta1", "beta2", "epsilon", "weight_decay")}

EMBEDDED = "embedded"
_STRICT = ConfigDict(extra="forbid", frozen=True)


def _number(value: object) -> object:
    """YAML numbers only: true is not 1, and 5e-2, which YAML reads as text, is a number."""
    if isinstance(value, bool):
        raise ValueError("is not a number")
    return value


Int = Annotated[int, Field(strict=True)]
Bool = Annotated[bool, Field(strict=True)]
Exact = Annotated[Decimal, BeforeValidator(_number)]
Path_ = Annotated[str, Field(min_length=1)]

SIZES = "a number of bytes, or one with kB, MB, GB, TB, KiB, MiB, GiB or TiB"


def size(text: object) -> int:
    """80GB is 80·10^9, 24GiB is 24·2^30; a plain number is bytes. ValueError if it is no size."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(?:([KMGT])(i?)B?)?", str(text), re.IGNORECASE)
    if not found or isinstance(text, bool) or not (bytes_ := int(float(found[1]) * _unit(found[2], found[3]))):
        raise ValueError("is no size")
    return bytes_


def _unit(letter: str | None, binary: str | None) -> int:
    return (1024 if binary else 1000) ** ("KMGT".index(letter.upper()) + 1 if letter else 0)


# Keys of PEFT's LoraConfig with the values at which they change nothing; anything else is refused by name.
_PEFT: dict[str, tuple[object, ...]] = {
    "lora_dropout": (0,), "bias": ("none",), "modules_to_save": (None, []), "use_dora": (False,), "init_lora_weights": (True,),
    "fan_in_fan_out": (False,), "rank_pattern": (None, {}), "alpha_pattern": (None, {}), "layers_to_transform": (None,),
    "layers_pattern": (None, []), "exclude_modules": (None, []), "target_parameters": (None, []), "trainable_token_indices": (None,),
    "layer_replication": (None,), "loftq_config": (None, {}), "lora_bias": (False,), "use_qalora": (False,), "task_type": ("CAUSAL_LM",),
}


class LoraConfig(BaseModel):
    """Which projections get an adapter, and of which rank; names as in PEFT."""

    model_config = _STRICT
    r: Int = Field(default=8, ge=1, le=64, description="an integer from 1 to 64")
    lora_alpha: Int = Field(default=16, ge=1, le=65536, description="an integer from 1 to 65536")
    use_rslora: Bool = Field(default=False, description="true (weight lora_alpha / √r) or false (lora_alpha / r)")
    target_modules: tuple[TargetModule, ...] = Field(
        default=TARGET_MODULES, min_length=1, description=f"a list of {', '.join(TARGET_MODULES)}"
    )

    @model_validator(mode="before")
    @classmethod
    def _neutral_keys_of_peft(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        for key, neutral in _PEFT.items():
            if key in section and not any(section[key] == value for value in neutral):
                valid = json.dumps(neutral[0]).strip('"')
                raise ValueError(f".{key}: {section[key]!r} is not supported; valid is {valid}, or no such key")
        return {key: value for key, value in section.items() if key not in _PEFT}

    @field_validator("target_modules")
    @classmethod
    def _once_each(cls, modules: tuple[TargetModule, ...]) -> tuple[TargetModule, ...]:
        if len(set(modules)) != len(modules):
            raise ValueError("names a module twice")
        return tuple(sorted(modules, key=TARGET_MODULES.index))

    def proved(self) -> Lora:
        """As the manifest states it."""
        return Lora(self.r, self.lora_alpha, self.target_modules, self.use_rslora)


class TrainingConfig(BaseModel):
    """The training that is proved, step by step. An optimizer's own keys are absent where another one is chosen."""

    model_config = _STRICT
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd or adamw")
    momentum: Exact | None = Field(default=None, description="a number from 0 to 0.9999")
    beta1: Exact | None = Field(default=None, description="a number from 0 to 0.9999")
    beta2: Exact | None = Field(default=None, description="a number from 0.5 to 0.99999")
    epsilon: Exact | None = Field(default=None, description="a number above 0, at most 1")
    weight_decay: Exact | None = Field(default=None, description="a number from 0 to 1")
    learning_rate: Exact = Field(gt=0, le=10, description="a number above 0, at most 10")
    max_grad_norm: Exact = Field(default=Decimal(0), ge=0, le=1000000, description="a number from 0 (no clipping) to 1000000")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="constant", description="constant, linear or cosine")
    warmup_steps: Int = Field(default=0, ge=0, lt=1 << 20, description="an integer from 0, at most the number of steps")
    epochs: Int = Field(default=1, ge=1, description="an integer of at least 1")
    batch_size: Int = Field(default=4, ge=1, le=4096, description="an integer from 1 to 4096: sequences of one micro-batch")
    gradient_accumulation: Int = Field(default=1, ge=1, le=4096, description="an integer from 1 to 4096: micro-batches of one step")
    sequence_length: Int = Field(default=64, ge=2, le=4096, description="an integer from 2 to 4096")
    seed: Int = Field(default=0, ge=0, lt=2**63, description="an integer from 0 to 2^63 - 1")
    window_steps: Int = Field(default=4, ge=1, le=512, description="an integer of at least 1 and at most 512: steps proved together")
    max_steps: Int | None = Field(default=None, ge=1, description="an integer of at least 1, or absent for all steps of all epochs")

    @model_validator(mode="after")
    def _of_this_optimizer(self) -> "TrainingConfig":
        other = "adamw" if self.optimizer == "sgd" else "sgd"
        for key in OPTIMIZER_KEYS[other]:
            if getattr(self, key) is not None:
                raise ValueError(f".{key}: {_exact(getattr(self, key))} does not apply to {self.optimizer}; valid is "
                                 f"{', '.join(OPTIMIZER_KEYS[self.optimizer])} with it, or optimizer: {other}")
        try:
            self.proved()
        except VerificationError as error:
            key = error.where.removeprefix("optimizer.")
            valid = error.expected if key in ("schedule", "warmup_steps") else f"a number in {error.expected} with at most 17 decimals"
            raise ValueError(f".{key}: {_exact(getattr(self, key))} is not valid; valid is {valid}") from None
        return self

    def proved(self) -> Optimizer:
        """As the manifest states it."""
        keys = (*OPTIMIZER_KEYS[self.optimizer], "learning_rate", "max_grad_norm")
        numbers = {key: _exact(value) for key in keys if (value := getattr(self, key)) is not None}
        return Optimizer(kind=self.optimizer, schedule=self.schedule, warmup_steps=self.warmup_steps, **numbers)


class DataConfig(BaseModel):
    """How lines become sequences (prover/files/dataset.py)."""

    model_config = _STRICT
    format: Literal["auto", "text", "prompt_completion", "messages"] = Field(
        default="auto", description="auto (that of the first line), text, prompt_completion or messages"
    )
    packing: Bool = Field(default=False, description="true (documents one after another, no cross-document mask) or false (one a row)")

    @field_validator("packing", mode="before")
    @classmethod
    def _one_mode(cls, packing: object) -> object:
        if isinstance(packing, str):
            raise ValueError("is a packing mode that is not supported")
        return packing


class QuantisationConfig(BaseModel):
    """The integers that stand for base weights, and how much room calibrated exponents leave."""

    model_config = _STRICT
    weights: Literal["int12", "int16"] = Field(default="int12", description="int12 or int16")
    scales: Literal["tensor", "row"] = Field(default="tensor", description="tensor or row: one scale per base matrix, or per output row")
    headroom: Int = Field(default=0, ge=0, le=4, description="an integer from 0 to 4: bits kept free beyond the usual ones")


class AuditConfig(BaseModel):
    """What becomes public, and how sure a proof must be."""

    model_config = _STRICT
    base_model: Literal["private", "public"] = Field(default="private", description="private or public")
    publish_loss: Bool = Field(default=True, description="true or false")
    soundness_bits: Int = Field(default=100, ge=100, le=128, description="an integer from 100 to 128")
    spare_openings: Int = Field(
        default=SPARE_OPENINGS, ge=1, le=64, description="an integer from 1 to 64: attempts that may die, for each commitment")
    parts: Int = Field(
        default=0, ge=0, le=4096, description="an integer from 0 to 4096: tasks that share a step's sequences; 0: as few as fit in memory")


class OrchestrationConfig(BaseModel):
    """Who proves, where, and how far training may run ahead. Changes nothing that is proved but, where audit.parts is 0, into how many
    parts a step is divided when the run is planned."""

    model_config = _STRICT
    provers: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = Field(
        default=EMBEDDED, description=f"{EMBEDDED} (threads of this process) or the name of a Prefect work pool, as gpu-provers")
    prover_memory: Annotated[int, BeforeValidator(size)] | None = Field(
        default=None, description=f"{SIZES}: what one prover may use; absent: what the planning process may")
    prover_device: Literal["cpu", "cuda"] | None = Field(default=None, description="cpu or cuda: whose memory that is; absent: as here")
    workers: Int = Field(default=64, ge=1, le=4096, description="an integer from 1 to 4096: the pool's workers that this run may use")
    priority: Literal["high", "normal", "low"] = Field(default="normal", description="high, normal or low: the pool's work queue")
    backlog: Int = Field(default=4, ge=0, le=512, description="an integer from 0 to 512: windows trained ahead of their proofs")
    patience: Int = Field(
        default=1800, ge=10, le=604800, description="an integer from 10 to 604800: seconds after which a proof counts as stuck")

    @model_validator(mode="after")
    def _memory_of_a_device(self) -> "OrchestrationConfig":
        if self.prover_device is not None and self.prover_memory is None:
            raise ValueError(f".prover_device: {self.prover_device!r} stands without prover_memory; valid is both, or neither")
        return self


class RunConfig(BaseModel):
    """One run.yaml; `folder` is where it lies. Paths and URLs as properties are absolute."""

    model_config = _STRICT
    base_model: Path_ = Field(description="the path of a Hugging Face model folder")
    dataset: Path_ | None = Field(default=None, description="the path of a JSON Lines file")
    dataset_opening: Path_ | None = Field(default=None, description="the path of a dataset-opening.npz, instead of dataset")
    data: DataConfig = Field(default_factory=DataConfig, description="a section with format, packing")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="a section with r, lora_alpha, use_rslora, target_modules")
    training: TrainingConfig = Field(description="a section with at least learning_rate")
    quantisation: QuantisationConfig = Field(default_factory=QuantisationConfig, description="a section with weights, scales, headroom")
    audit: AuditConfig = Field(default_factory=AuditConfig, description=f"a section with {', '.join(AuditConfig.model_fields)}")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="a section with ledger, objects, private")
    orchestration: OrchestrationConfig = Field(
        default_factory=OrchestrationConfig,
        description="a section with provers, prover_memory, prover_device, workers, priority, backlog, patience")
    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _one_dataset(self) -> "RunConfig":
        if self.dataset is None and self.dataset_opening is None:
            raise ValueError(".dataset: missing; valid is the path of a JSON Lines file, or dataset_opening")
        if self.dataset is not None and self.dataset_opening is not None:
            raise ValueError(f".dataset_opening: {self.dataset_opening!r} stands beside dataset; valid is one of the two")
        if self.dataset_opening is not None and "data" in self.model_fields_set:
            raise ValueError(".data: does not apply to dataset_opening, whose owner chose format and packing; valid is no such section")
        return self

    @property
    def folder(self) -> Path:
        """The folder of run.yaml, absolute."""
        return self._folder

    @property
    def base_model_path(self) -> Path:
        """The base model's folder, absolute."""
        return self._folder / self.base_model

    @property
    def dataset_path(self) -> Path | None:
        """The dataset's file, absolute; None if its owner committed it elsewhere."""
        return None if self.dataset is None else self._folder / self.dataset

    @property
    def dataset_opening_path(self) -> Path | None:
        """The opening of a dataset that its owner committed, absolute."""
        return None if self.dataset_opening is None else self._folder / self.dataset_opening

    @property
    def ledger_url(self) -> str:
        """storage.ledger with an absolute path, for storage.ledger.open_ledger."""
        return self.storage.absolute("ledger", self._folder)

    @property
    def objects_url(self) -> str:
        """storage.objects with an absolute path, for storage.object_store.open_object_store."""
        return self.storage.absolute("objects", self._folder)

    @property
    def private_url(self) -> str:
        """storage.private with an absolute path, for storage.private.open_private_store."""
        return self.storage.absolute("private", self._folder)


def load_config(path: Path) -> RunConfig:
    """Read and check one run.yaml; ConfigError lists everything that is wrong with it."""
    data = read_yaml(path)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(path, describe(error, RunConfig)) from None
    config._folder = path.absolute().parent
    if problems := config.storage.problems(config.folder):
        raise ConfigError(path, problems)
    return config


def _exact(value: object) -> str:
    """A decimal in canonical form, as protocol/optimizer.py wants it; 0.0 is 0."""
    return format(value.normalize() + 0, "f") if isinstance(value, Decimal) and value.is_finite() else str(value)
