"""The signature over a delivered adapter folder: holds for the files as exported, and for nothing else."""

from pathlib import Path

import pytest

from storage.private import PrivateStore, open_private_store
from tasks.signature import SIGNATURE_FILE, SignatureError, check_signature, public_key, sign_folder, signing_key


@pytest.fixture
def private(tmp_path: Path) -> PrivateStore:
    return open_private_store(f"file:{tmp_path / 'private'}")


@pytest.fixture
def folder(tmp_path: Path, private: PrivateStore) -> Path:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(bytes(range(200)))
    sign_folder(adapter, signing_key(private))
    return adapter


def test_holds_and_key_stays_the_same(folder: Path, private: PrivateStore, tmp_path: Path) -> None:
    check_signature(folder, public_key(signing_key(private)))
    kept = tmp_path / "private/signing/adapter-key"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" not in (folder / SIGNATURE_FILE).read_text()


def change(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(1, 201)))


def add(folder: Path) -> None:
    (folder / "extra.json").write_text("{}")


def remove(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def damage(folder: Path) -> None:
    (folder / SIGNATURE_FILE).write_text("{}")


def unsigned(folder: Path) -> None:
    (folder / SIGNATURE_FILE).unlink()


@pytest.mark.parametrize("tamper", [change, add, remove, damage, unsigned])
def test_any_other_folder_is_refused(folder: Path, private: PrivateStore, tamper: object) -> None:
    tamper(folder)  # type: ignore[operator]
    with pytest.raises(SignatureError):
        check_signature(folder, public_key(signing_key(private)))


def test_another_signer_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="somebody else signed"):
        check_signature(folder, public_key(signing_key(open_private_store(f"file:{tmp_path / 'other'}"))))


def test_a_relative_folder_is_the_same_folder(folder: Path, private: PrivateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    relative = Path(folder.name)
    check_signature(relative, public_key(signing_key(private)))
    (relative / SIGNATURE_FILE).unlink()
    sign_folder(relative, signing_key(private))
    check_signature(folder, public_key(signing_key(private)))
