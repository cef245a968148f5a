"""The provider's signature over a delivered adapter folder, in OpenSSF's model-signing format (a DSSE bundle, `model.sig`).

It covers every file of the folder: weights, configuration and opening. The key is an elliptic-curve key (P-256) made on first
use and kept in the private store; a customer checks against the public key that the provider handed over some other way.
The signature says who delivered; that the weights are the ones that were proved is the opening's business (tasks/adapter.py).
Called by `verilora adapter export`, `adapter key` and `adapter check`.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from storage.private import PrivateStore

SIGNATURE_FILE = "model.sig"
KEY_NAME = "signing/adapter-key"


class SignatureError(Exception):
    """A folder whose signature is missing or does not hold: what is wrong and what to do."""


def signing_key(private: PrivateStore) -> bytes:
    """The provider's private key as PEM; made and kept on first use."""
    if not private.has(KEY_NAME):
        key = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.NoEncryption()
        private.create(KEY_NAME, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return private.get(KEY_NAME)


def public_key(private_pem: bytes) -> bytes:
    """The PEM that customers check against."""
    key = serialization.load_pem_private_key(private_pem, None).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign_folder(folder: Path, private_pem: bytes) -> Path:
    """Write `model.sig` over all files of the folder."""
    from model_signing import hashing, signing

    folder = folder.resolve()  # the library compares the ignored path with absolute ones
    path = folder / SIGNATURE_FILE
    files = hashing.Config().set_ignored_paths(paths=[path], ignore_git_paths=False)
    with _as_file(private_pem) as key:
        signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(files).sign(folder, path)
    return path


def check_signature(folder: Path, public_pem: bytes) -> None:
    """SignatureError unless `model.sig` is this key's signature over exactly the folder's files."""
    from model_signing import hashing, verifying

    folder = folder.resolve()
    path = folder / SIGNATURE_FILE
    if not path.is_file():
        raise SignatureError(f"{path} is missing: ask for the folder that `verilora adapter export` wrote")
    # said here, or the library would ignore whatever the signature's text says is to be ignored
    files = hashing.Config().set_ignored_paths(paths=[path], ignore_git_paths=False)
    with _as_file(public_pem) as key:
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(files).verify(folder, path)
        except Exception as error:  # the library raises whatever its parsers raise
            raise SignatureError(
                f"{path} does not hold for this key and these files ({type(error).__name__}: {str(error)[:300]}): a file was changed, "
                "added or removed, or somebody else signed"
            ) from error


@contextlib.contextmanager
def _as_file(pem: bytes) -> Iterator[Path]:
    """The library takes keys as files: one of mode 600 that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key.pem"
        path.touch(mode=0o600)
        path.write_bytes(pem)
        yield path
