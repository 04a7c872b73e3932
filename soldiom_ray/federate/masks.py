"""The arithmetic of secure aggregation: fixed-point numbers modulo 2**64, masks, and Shamir's shares of their secrets.

Nothing here knows of sites or rounds; `secure_site` and `secure_sum` say who does what."""

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from soldiom_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.uint64]

PRIME = (1 << 521) - 1
"""A field larger than every secret of SECRET_BYTES."""
SECRET_BYTES = 32
FRACTION_BITS = 24
LARGEST, MOST_WEIGHT, MOST_SITES = 16.0, 1 << 26, 1 << 8
"""Of one number, of what it is weighed by, and of the sites: their product times 2**FRACTION_BITS stays below 2**63."""
EQUAL_WEIGHT = 1 << 10
"""What all updates weigh where all weigh the same; more than 1, so that rounding is finer."""


def encode(values: "npt.NDArray[np.floating]", weight: int) -> "Numbers":
    """Numbers times a weight in fixed point modulo 2**64. InputError for what would not fit the sum."""
    import numpy as np

    if not 0 <= weight <= MOST_WEIGHT:
        raise InputError(
            f"A weight of {weight} does not fit secure aggregation; at most {MOST_WEIGHT} labels at a site do.",
            remedy="have the site train on a part of its data, or use `weighting: equal`",
        )
    if not np.isfinite(values).all():
        raise InputError("The update has numbers that are not finite.", remedy="lower `train.learning_rate`")
    if (largest := float(np.abs(values).max(initial=0))) > LARGEST:
        raise InputError(
            f"The update has a number of {largest:.4g}; up to {LARGEST:g} fit secure aggregation.",
            remedy="lower `train.learning_rate`, or set `federate.clip_norm`",
        )
    return np.rint(values.astype(np.float64) * weight * 2.0**FRACTION_BITS).astype(np.int64).view(np.uint64)


def decode(numbers: "Numbers", sites: int) -> "npt.NDArray[np.float64]":
    """The sum of what so many sites encoded. InputError for numbers that cannot be one: masks are left in them."""
    import numpy as np

    values: npt.NDArray[np.float64] = numbers.view(np.int64).astype(np.float64) / 2.0**FRACTION_BITS
    if float(np.abs(values).max(initial=0)) > LARGEST * MOST_WEIGHT * sites:
        raise InputError(
            "The sum of the updates makes no sense: masks are left in it.",
            remedy="a site sent a wrong update or wrong shares, and nobody can see which; run the same without some",
        )
    return values


def stream(key: bytes, count: int) -> "Numbers":
    """[count] numbers that a key of 32 bytes determines (AES-256 in counter mode). Use a key for one vector alone."""
    import numpy as np
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * count)), np.uint64)


def split_secret(secret: bytes, threshold: int, count: int) -> list[str]:
    """Shares of a secret in hexadecimal, for the positions 0 to count - 1; any `threshold` of them give it back (Shamir
    1979)."""
    coefficients = [int.from_bytes(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [f"{_polynomial(coefficients, position + 1):x}" for position in range(count)]


def join_secret(shares: Mapping[int, str]) -> bytes:
    """The secret of shares by their positions. InputError for too few, or some that do not belong together, except for
    one in 2**265."""
    remedy = "a site sent wrong shares; run the same again"
    try:
        points = [(position + 1, int(share, 16)) for position, share in shares.items()]
    except ValueError as error:
        raise InputError("A share of a mask is no number.", remedy=remedy) from error
    secret = 0
    for x, y in points:
        factor = y
        for other, _ in points:
            if other != x:
                factor = factor * other * pow(other - x, -1, PRIME) % PRIME
        secret = (secret + factor) % PRIME
    try:
        return secret.to_bytes(SECRET_BYTES)
    except OverflowError:
        raise InputError("The shares of a mask do not belong together.", remedy=remedy) from None


def new_key() -> str:
    """A private key of X25519 in hexadecimal."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate().private_bytes_raw().hex()


def public_key(private: str) -> str:
    """The public key of a private one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw().hex()


def agreed_key(private: str, public: str, purpose: str) -> bytes:
    """The key for one purpose that two sites agree on, each from its private and the other's public key. InputError for
    a public key that is none."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    own = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError as error:  # no 32 bytes, or a point with which every key agrees
        raise InputError("A site's public key is none.", remedy="look at that site") from error
    return HKDF(hashes.SHA256(), SECRET_BYTES, None, f"soldiom secure aggregation: {purpose}".encode()).derive(shared)


def seal_letter(key: bytes, text: bytes) -> str:
    """A text that only who has the key can read, in hexadecimal."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(12)
    return (nonce + AESGCM(key).encrypt(nonce, text, None)).hex()


def open_letter(key: bytes, letter: str) -> bytes:
    """The text of `seal_letter`. InputError when it was sealed with another key or changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        data = bytes.fromhex(letter)
        return AESGCM(key).decrypt(data[:12], data[12:], None)
    except (InvalidTag, ValueError) as error:
        raise InputError("A letter was not written for this site, or was changed on its way.") from error


def _polynomial(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
