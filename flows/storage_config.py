"""The storage section of run.yaml: where ledger, public objects and secrets are kept.

    ledger    sqlite:///PATH  or  postgresql+psycopg://USER@HOST/DATABASE
    objects   file:PATH  or  s3://BUCKET/PREFIX?endpoint=…&region=…&lock=COMPLIANCE:30d&versioning=on   (storage/s3.py)
    private   file:PATH  or  s3://BUCKET/PREFIX?key=PATH&endpoint=…&region=…&sse=…   (storage/s3_private.py)

Relative paths are relative to run.yaml's folder. Each key may come from the environment (VERILORA_STORAGE_LEDGER, …_OBJECTS,
…_PRIVATE), which goes before run.yaml. Credentials for S3 never stand in a URL. Called by flows/config.py.
"""

from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from storage.errors import StorageError

_POSTGRESQL = "postgresql+psycopg://"


class StorageConfig(BaseSettings):
    """Three places; `absolute` makes them independent of the current folder."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="VERILORA_STORAGE_")
    ledger: str = Field(default="sqlite:///var/ledger.db", description="sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE")
    objects: str = Field(default="file:var/objects", description="file:PATH or s3://BUCKET/PREFIX?endpoint=…&region=…")
    private: str = Field(
        default="file:var/private",
        description="file:PATH, outside objects, or s3://BUCKET/PREFIX?key=PATH&endpoint=…, a bucket of its own",
    )

    @field_validator("ledger")
    @classmethod
    def _database(cls, url: str) -> str:
        if url.startswith(_POSTGRESQL):
            if not urlsplit(url).path.strip("/"):
                raise ValueError("names no database")
        elif url.partition(":")[0].partition("+")[0] in ("postgresql", "postgres"):
            raise ValueError("names PostgreSQL by another driver")
        elif not url.startswith("sqlite:///") or not url.removeprefix("sqlite:///").strip("/"):
            raise ValueError("is no ledger's place")
        return url

    @field_validator("objects", "private")
    @classmethod
    def _store(cls, url: str) -> str:
        if url.startswith("s3:"):
            return url  # judged by `problems`, whose messages do not repeat what may be a credential
        if not url.startswith("file:") or (url.startswith("file://") and not url.startswith("file:///")) or not url[5:].strip("/"):
            raise ValueError("is no store's place")
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

    def absolute(self, key: str, folder: Path) -> str:
        """The URL of `ledger`, `objects` or `private`, its paths taken from `folder`."""
        url: str = getattr(self, key)
        if url.startswith("sqlite:///"):
            return f"sqlite:///{folder / url.removeprefix('sqlite:///')}"
        if url.startswith("file:"):
            return f"file:{folder / url.removeprefix('file:').removeprefix('//')}"
        if url.startswith("s3:") and "key=" in url:
            parts = urlsplit(url)
            query = [(name, str(folder / value) if name == "key" and value else value) for name, value in parse_qsl(parts.query)]
            return parts._replace(query=urlencode(query, quote_via=quote, safe="/:")).geturl()
        return url

    def problems(self, folder: Path) -> list[str]:
        """What is wrong with the stores: bucket URLs, and secrets that would lie where public objects do."""
        from storage.private import refuse_shared

        objects, private = self.absolute("objects", folder), self.absolute("private", folder)
        try:
            if objects.startswith("s3:"):
                from storage.s3 import parse_s3_url  # boto3 only where a bucket is used

                parse_s3_url(objects, "storage.objects")
            if private.startswith("s3:"):
                from storage.s3_private import parse_private_url

                parse_private_url(private, "storage.private")
            refuse_shared(objects, private)
        except StorageError as error:
            return [str(error)]
        return []
