"""Ed25519 signatures of statements (domain/signed_statement), and the signature file beside a model.

Keys are one line of base64: 32 bytes. A signature is `<key id>:<base64>`, the id being the begin of the SHA-256 of the
public key. Two public keys may be valid at a time, while one replaces the other. Needs the extra `signing`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from retrain_worker import durable_file, typed_json
from retrain_worker.domain.artifact import signature_file
from retrain_worker.domain.host_names import command
from retrain_worker.domain.signed_statement import Statement, signed_bytes
from retrain_worker.errors import ArtifactError, MalformedError, SettingsError, install_extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEYS = 2
_KEY_BYTES = 32
_MAX_FILE_BYTES = 1 << 16
_NO_CRYPTOGRAPHY = f"signatures need the package cryptography: {install_extra('signing')}"


@dataclass(frozen=True, kw_only=True)
class SignedStatement:
    """The content of a signature file."""

    statement: dict[str, str]
    signature: str


def new_key() -> str:
    """A new private key."""
    return _text(_private_key(None).private_bytes_raw())


class Signer:
    """Signs with one private key."""

    def __init__(self, private_key: str) -> None:
        """Raises SettingsError when the text is no key; the message does not hold it."""
        self._key = _private_key(private_key)
        public = self._key.public_key().public_bytes_raw()
        self.public_key = _text(public)
        self.key_id = _id_of(public)

    def sign(self, statement: Statement) -> str:
        """The signature. Equal statements have equal signatures."""
        return f"{self.key_id}:{_text(self._key.sign(signed_bytes(statement)))}"

    def write(self, model: Path, statement: Statement) -> None:
        """Write the signature file of `model` durably. Raises DiskFullError, SlotError, RetryLaterError."""
        content = SignedStatement(statement=dict(statement), signature=self.sign(statement))
        durable_file.replace_file(signature_file(model), msgspec.json.encode(content) + b"\n")


class Verifier:
    """Verifies with one or two public keys."""

    def __init__(self, public_keys: Iterable[str]) -> None:
        """Raises SettingsError when there is none, more than MAX_KEYS, or one that is no key."""
        keys = [_decoded(key) for key in dict.fromkeys(public_keys)]
        if not 0 < len(keys) <= MAX_KEYS:
            raise SettingsError((f"{len(keys)} public keys of models; one is needed, or two while they are changed",))
        self._keys = {_id_of(key): _public_key(key) for key in keys}

    def check(self, statement: Statement, signature: str) -> str:
        """The id of the key that has signed. Raises ArtifactError for any other signature."""
        from cryptography.exceptions import InvalidSignature

        key_id, _, text = signature.partition(":")
        key = self._keys.get(key_id)
        if key is None:
            known = " or ".join(self._keys)
            raise ArtifactError(
                f"not signed with key {known}" + (f", but {key_id[:16]!a}" if key_id else ""),
                remedy="see docs/explanation/security.md, Signed models",
            )
        try:
            key.verify(base64.b64decode(text, validate=True), signed_bytes(statement))
        except (InvalidSignature, binascii.Error, ValueError):
            raise ArtifactError(
                f"the signature with key {key_id} is not one of this statement", remedy="find out who has written it"
            ) from None
        return key_id

    def check_model(self, model: Path, sha256: str) -> SignedStatement:
        """The signed statement beside `model`, which has the hash `sha256`. Raises ArtifactError without one."""
        found = read(model)
        if found is None:
            raise ArtifactError(
                "not signed", where=str(model), remedy="see docs/explanation/security.md, Signed models"
            )
        statement = found.statement
        if statement.get("purpose") != "model" or statement.get("sha256") != sha256:
            raise ArtifactError(f"its signature is that of another file than {sha256}", where=str(model))
        try:
            datetime.fromisoformat(statement["promoted_at"])
            self.check(statement, found.signature)
        except ArtifactError as error:
            raise ArtifactError(error.what, where=str(model), remedy=error.remedy) from None
        except (KeyError, ValueError):
            raise ArtifactError("its signature has no date", where=str(model)) from None
        return found


def read(model: Path) -> SignedStatement | None:
    """The content of the signature file, not verified; None where there is none. Raises ArtifactError."""
    path = signature_file(model)
    try:
        content = durable_file.read_regular(path, _MAX_FILE_BYTES, follow_links=False)
        return typed_json.decode(content, SignedStatement)
    except FileNotFoundError:
        return None
    except (OSError, MalformedError) as error:
        raise ArtifactError(f"cannot be read ({type(error).__name__})", where=str(path)) from error


def _private_key(text: str | None) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ModuleNotFoundError:
        raise SettingsError((_NO_CRYPTOGRAPHY,)) from None
    return Ed25519PrivateKey.generate() if text is None else Ed25519PrivateKey.from_private_bytes(_decoded(text))


def _public_key(key: bytes) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError:
        raise SettingsError((_NO_CRYPTOGRAPHY,)) from None
    return Ed25519PublicKey.from_public_bytes(key)


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise SettingsError((f"not a key: one line of base64 of 32 bytes, as `{command()} keygen` writes it",))
    return key


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _id_of(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()[:16]
