"""run.yaml: what a user asks for, checked before anything starts (architecture, "What users see").

Every error names the key, the value found and what would be valid. Numbers that enter the proved training are exact:
learning_rate and momentum are decimals, never binary floats. Relative paths are relative to run.yaml's own folder. Only
the storage section may come from the environment (VERILORA_STORAGE_LEDGER, …_OBJECTS, …_PRIVATE), because it may hold
credentials and changes nothing that is proved. Called by flows/ and cli.py.
"""

import math
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from flows.config_errors import ConfigError, describe, read_yaml

TargetModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGET_MODULES: tuple[TargetModule, ...] = get_args(TargetModule)

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


class LoraConfig(BaseModel):
    """Which projections get an adapter, and of which rank; names as in PEFT."""

    model_config = _STRICT
    r: Int = Field(default=8, ge=1, le=1024, description="an integer from 1 to 1024")
    lora_alpha: Int = Field(default=16, ge=1, le=65536, description="an integer from 1 to 65536")
    target_modules: tuple[TargetModule, ...] = Field(
        default=TARGET_MODULES, min_length=1, description=f"a list of {', '.join(TARGET_MODULES)}"
    )

    @field_validator("target_modules")
    @classmethod
    def _once_each(cls, modules: tuple[TargetModule, ...]) -> tuple[TargetModule, ...]:
        if len(set(modules)) != len(modules):
            raise ValueError("names a module twice")
        return tuple(sorted(modules, key=TARGET_MODULES.index))

    @model_validator(mode="after")
    def _exact_scaling(self) -> "LoraConfig":
        denominator = self.r // math.gcd(self.r, self.lora_alpha)
        if denominator & (denominator - 1):
            raise ValueError(
                f"lora_alpha / r = {self.lora_alpha}/{self.r} is not exact in binary; valid is a lora_alpha such as "
                f"{self.r} or {2 * self.r}, or an r that is a power of two"
            )
        return self


class TrainingConfig(BaseModel):
    """The training that is proved, step by step."""

    model_config = _STRICT
    optimizer: Literal["sgd"] = Field(default="sgd", description="sgd")
    momentum: Exact = Field(default=Decimal(0), ge=0, lt=1, description="a number from 0 up to, not including, 1")
    learning_rate: Exact = Field(gt=0, le=10, description="a number above 0, at most 10")
    epochs: Int = Field(default=1, ge=1, description="an integer of at least 1")
    batch_size: Int = Field(default=4, ge=1, description="an integer of at least 1")
    sequence_length: Int = Field(default=64, ge=2, description="an integer of at least 2")
    seed: Int = Field(default=0, ge=0, lt=2**63, description="an integer from 0 to 2^63 - 1")
    window_steps: Int = Field(default=4, ge=1, description="an integer of at least 1: steps proved together")
    max_steps: Int | None = Field(default=None, ge=1, description="an integer of at least 1, or absent for all steps of all epochs")

    @field_validator("optimizer", mode="before")
    @classmethod
    def _supported(cls, optimizer: object) -> object:
        if optimizer == "adamw":
            raise ValueError("is not supported yet: use sgd")
        return optimizer


class AuditConfig(BaseModel):
    """What becomes public, and how sure a proof must be."""

    model_config = _STRICT
    base_model: Literal["private", "public"] = Field(default="private", description="private or public")
    publish_loss: Bool = Field(default=True, description="true or false")
    soundness_bits: Int = Field(default=100, ge=100, le=128, description="an integer from 100 to 128")


class StorageConfig(BaseSettings):
    """Where ledger, public objects and secrets are kept; the environment goes before run.yaml."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="VERILORA_STORAGE_")
    ledger: str = Field(default="sqlite:///var/ledger.db", description="sqlite:///PATH")
    objects: str = Field(default="file:var/objects", description="file:PATH")
    private: str = Field(default="file:var/private", description="file:PATH, outside objects")

    @field_validator("ledger", "objects", "private")
    @classmethod
    def _supported(cls, url: str) -> str:
        scheme, colon, path = url.partition(":")
        if scheme.split("+")[0] in ("postgresql", "postgres", "s3"):
            raise ValueError(f"names {scheme}, which is not supported yet")
        if not colon or scheme not in ("sqlite", "file") or not path.strip("/"):
            raise ValueError("is not a supported place")
        return url

    @field_validator("ledger")
    @classmethod
    def _database(cls, url: str) -> str:
        if not url.startswith("sqlite:///"):
            raise ValueError("is no SQLite file")
        return url

    @field_validator("objects", "private")
    @classmethod
    def _folder(cls, url: str) -> str:
        if not url.startswith("file:") or (url.startswith("file://") and not url.startswith("file:///")):
            raise ValueError("is no folder")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then run.yaml."""
        return env_settings, init_settings


class RunConfig(BaseModel):
    """One run.yaml; `folder` is where it lies. Paths and URLs as properties are absolute."""

    model_config = _STRICT
    base_model: Path_ = Field(description="the path of a Hugging Face LLaMA folder")
    dataset: Path_ = Field(description="the path of a JSONL file")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="a section with r, lora_alpha, target_modules")
    training: TrainingConfig = Field(description="a section with at least learning_rate")
    audit: AuditConfig = Field(default_factory=AuditConfig, description="a section with base_model, publish_loss, soundness_bits")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="a section with ledger, objects, private")
    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def folder(self) -> Path:
        """The folder of run.yaml, absolute."""
        return self._folder

    @property
    def base_model_path(self) -> Path:
        """The base model's folder, absolute."""
        return self._folder / self.base_model

    @property
    def dataset_path(self) -> Path:
        """The dataset's file, absolute."""
        return self._folder / self.dataset

    @property
    def ledger_url(self) -> str:
        """storage.ledger with an absolute path, for storage.ledger.open_ledger."""
        return f"sqlite:///{self._folder / self.storage.ledger.removeprefix('sqlite:///')}"

    @property
    def objects_url(self) -> str:
        """storage.objects with an absolute path, for storage.object_store.open_object_store."""
        return f"file:{self._place(self.storage.objects)}"

    @property
    def private_url(self) -> str:
        """storage.private with an absolute path, for storage.private.open_private_store."""
        return f"file:{self._place(self.storage.private)}"

    def hyperparameters(self) -> dict[str, Any]:
        """lora, training and audit as plain values: what a manifest or an order states; absent keys are left out."""
        sections = self.model_dump(include={"lora", "training", "audit"})
        return {
            name: {key: _plain(value) for key, value in section.items() if value is not None}
            for name, section in sections.items()
        }

    def _place(self, url: str) -> Path:
        return self._folder / url.removeprefix("file:").removeprefix("//")


def load_config(path: Path) -> RunConfig:
    """Read and check one run.yaml; ConfigError lists everything that is wrong with it."""
    data = read_yaml(path)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(path, describe(error, RunConfig)) from None
    config._folder = path.absolute().parent
    _keep_secrets_apart(config, path)
    return config


def _keep_secrets_apart(config: RunConfig, path: Path) -> None:
    public, private = config._place(config.storage.objects).resolve(), config._place(config.storage.private).resolve()
    if public == private or public in private.parents or private in public.parents:
        raise ConfigError(path, [
            f"storage.private: {config.storage.private!r} and storage.objects {config.storage.objects!r} lie in each other; "
            "valid are two separate folders, because objects are public"
        ])


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    return list(value) if isinstance(value, tuple) else value
