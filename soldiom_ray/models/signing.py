"""Signatures of weights: each home signs what it trains, and loads no weights of a run that were changed since or that
nobody it trusts has signed.

A signature is a Sigstore bundle in the format of the OpenSSF's model signing (model-signing 1.1), so others verify it
with that project's own tool: `model_signing verify key --signature weights.sig --public_key model_signing.pub weights`.
It covers the run's id, and the names and contents of all files below `weights/`.

A bucket may be shared by machines that share no home. There nothing is signed or verified until an operator has put
one key on all of them, since one made by a machine would be unknown to the others.
"""

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from soldiom_ray.artifacts import MANIFEST, Artifacts, prefix_of
from soldiom_ray.errors import DamagedError, InputError, NotFoundError
from soldiom_ray.settings import Settings, private_lock, write_private

if TYPE_CHECKING:
    from model_signing.hashing import Config

SIGNATURE = "weights.sig"
"""The file of a run, beside its folder `weights`, that holds the signature."""
PRIVATE_KEY, PUBLIC_KEY = "model_signing.pem", "model_signing.pub"
"""Files of the home's folder `keys`."""
TRUSTED = "trusted_signers"
"""Folder below `keys` with the public keys (PEM, `*.pub`) of other homes whose models are loaded too."""


def sign_weights(settings: Settings, artifacts: Artifacts, run: str, folder: Path) -> bytes | None:
    """The signature of a folder that holds a run's weights, with this home's key; None where this home has none."""
    key = _private_key(settings, artifacts)
    return None if key is None else _signature(key, run, folder)


def sign_run(settings: Settings, artifacts: Artifacts, run: str) -> None:
    """Sign the weights of a run as they are now. NotFoundError when it has none; InputError without a key."""
    _put_signature(artifacts, run, _needed_key(settings, artifacts))


@contextmanager
def verified_weights(settings: Settings, artifacts: Artifacts, run: str) -> Iterator[Path]:
    """The local folder of a run's weights, after its signature was verified, where this home has a key. Do not write
    into it.

    NotFoundError when the run has no weights, DamagedError when they are not signed, by somebody else, or not what
    was signed."""
    with artifacts.storage.local_folder(f"{prefix_of(run)}/weights") as folder:
        if (key := _private_key(settings, artifacts)) is not None:
            _verify(settings, artifacts, run, folder, key)
        yield folder


def verify_run(settings: Settings, artifacts: Artifacts, run: str) -> str:
    """The signer's fingerprint of a run whose weights are what was signed. Errors as of `verified_weights`, and
    InputError where this home has no key."""
    key = _needed_key(settings, artifacts)
    with artifacts.storage.local_folder(f"{prefix_of(run)}/weights") as folder:
        return _verify(settings, artifacts, run, folder, key)


def _verify(settings: Settings, artifacts: Artifacts, run: str, folder: Path, own: Path) -> str:
    """The signer's fingerprint (SHA-256 of the public key as PEM), when `folder` holds what was signed for the run."""
    from model_signing import verifying

    try:
        bundle = artifacts.storage.read(f"{prefix_of(run)}/{SIGNATURE}")
    except NotFoundError as error:
        raise DamagedError(
            f"The weights of {run} are not signed.",
            remedy=f"train again or, if you know where they come from, `soldiom models sign {run}`",
        ) from error
    signers = {fingerprint(path): path for path in (own.with_name(PUBLIC_KEY), *_trusted(settings))}
    signer, subject = _claims(bundle)
    if signer not in signers:
        raise DamagedError(
            f"The weights of {run} are signed by a key that this home does not know (fingerprint {signer or '-'}).",
            remedy=f"put that signer's {PUBLIC_KEY} into {settings.keys_folder / TRUSTED}, if you trust it",
        )
    with tempfile.TemporaryDirectory(prefix="soldiom-") as name:
        signature = Path(name) / SIGNATURE
        signature.write_bytes(bundle)
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=signers[signer])
            verifier.set_hashing_config(_hashing(folder)).verify(folder, signature)
        except Exception as error:  # of several libraries: a wrong signature, other files, other contents
            raise _changed(run, _differences(str(error)) or "the signature does not fit") from error
    if subject != run:
        raise _changed(run, f"this is the signature of {subject}")
    return signer


def _changed(run: str, reason: str) -> DamagedError:
    return DamagedError(
        f"The weights of {run} are not what was signed: {reason}.", remedy="restore them from a copy, or train again"
    )


def _differences(message: str) -> str:
    """What model-signing says of files that differ, in a few words: it prints every byte of both digests, and where a
    quotation mark is among these, those around the names have a backslash before them."""
    changed = re.findall(r"Hash mismatch for \\?'([^'\\]+)", message)
    parts = [f"{', '.join(changed[:5])} changed"] if changed else []
    for kind, word in (("Extra files found", "added"), ("Missing files", "missing")):
        parts += [f"{names} {word}" for names in re.findall(kind + r" in model '[^']*': ([^\"\]]{1,300})", message)]
    return "; ".join(parts)


def fingerprint(public_key: Path) -> str:
    """SHA-256 of a public key's PEM, by which a signature names its signer."""
    return hashlib.sha256(public_key.read_bytes()).hexdigest()


def _claims(bundle: bytes) -> tuple[str, str]:
    """(fingerprint of the signer, run) that a signature names; "" where it can't be read."""
    try:
        content = json.loads(bundle)
        statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
        return content["verificationMaterial"]["publicKey"]["hint"], statement["subject"][0]["name"]
    except (ValueError, KeyError, TypeError, IndexError):
        return "", ""


def _trusted(settings: Settings) -> list[Path]:
    return sorted((settings.keys_folder / TRUSTED).glob("*.pub"))


def _needed_key(settings: Settings, artifacts: Artifacts) -> Path:
    key = _private_key(settings, artifacts)
    if key is None:
        raise InputError(
            f"This home has no key for signatures: its storage is {settings.storage}, which other machines may share.",
            remedy=f"put the same {PRIVATE_KEY} and {PUBLIC_KEY} into {settings.keys_folder} on all of them",
        )
    return key


def _private_key(settings: Settings, artifacts: Artifacts) -> Path | None:
    """This home's key, None where storage is a bucket and nobody has put one there. It's made on first use, and what
    has no signature by then is signed with it, so that a home that was made by an earlier version goes on."""
    path = settings.keys_folder / PRIVATE_KEY
    if path.is_file():
        return path
    if not settings.storage.startswith("file://"):
        return None
    with private_lock(path.with_name(".signing.lock")):
        if not path.is_file():
            draft = path.with_name(f".new-{PRIVATE_KEY}")
            private, public = _new_key()
            write_private(draft, private)
            write_private(path.with_name(PUBLIC_KEY), public)
            keys = set(artifacts.storage.keys("run"))
            for run in (key.split("/")[1] for key in keys if key.endswith(f"/{MANIFEST}")):
                if f"{prefix_of(run)}/{SIGNATURE}" not in keys:  # what somebody else has signed is theirs to vouch for
                    with suppress(NotFoundError):  # one that lost its weights
                        _put_signature(artifacts, run, draft)
            draft.replace(path)
    return path


def _new_key() -> tuple[str, str]:
    """A key on the curve P-256, private and public, as PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def _put_signature(artifacts: Artifacts, run: str, key: Path) -> None:
    with artifacts.storage.local_folder(f"{prefix_of(run)}/weights") as folder:
        signature = _signature(key, run, folder)
    artifacts.replace_file(run, SIGNATURE, signature)


def _signature(key: Path, run: str, folder: Path) -> bytes:
    from model_signing import signing

    with tempfile.TemporaryDirectory(prefix="soldiom-") as name:
        path, named = Path(name) / SIGNATURE, Path(name) / run  # the signed statement takes its subject from the folder
        named.symlink_to(folder.absolute())
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
        signer.set_hashing_config(_hashing(folder)).sign(named, path)
        return path.read_bytes()


def _hashing(folder: Path) -> "Config":
    """All files count, but those that a killed write left behind."""
    from model_signing.hashing import Config

    drafts = [path.relative_to(folder) for path in folder.rglob(".draft-*")]
    return Config().set_ignored_paths(paths=drafts, ignore_git_paths=False).set_allow_symlinks(True)
