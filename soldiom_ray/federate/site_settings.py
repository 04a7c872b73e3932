"""A site's own settings, and the invitation by which a coordinator reaches it.

They lie in the folder `site/` of the site's home, the invitations that a coordinator was given in `keys/sites/` of its
own. Both hold a key and are for their owner alone."""

import contextlib
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from soldiom_ray.domains.references import is_local_path
from soldiom_ray.errors import InputError, NotFoundError, suggestion
from soldiom_ray.records import Record
from soldiom_ray.settings import Settings, write_private

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
DAYS_VALID = 825
DEFAULT_PORT = 8470


class SiteSettings(Record):
    """What a site's administrator has decided."""

    name: str = Field(pattern=NAME)
    dataset: str
    approve: Literal["each", "always"] = "each"
    """each: an update waits until the administrator approves it; always: it leaves at once."""
    bases: tuple[str, ...] = ("builtin/*",)
    """Patterns of base models that a coordinator may ask for."""
    max_norm: float | None = Field(None, gt=0)
    """With `always`: a longer update waits for the administrator all the same."""
    secure_only: bool = False
    """Updates leave in sums alone, so that no coordinator sees one."""
    peers: dict[str, str] = Field(default_factory=dict)
    """Other sites -> fingerprints of their certificates, which the administrator has confirmed. Where there are some,
    this site masks its updates with no others."""


@dataclass(frozen=True)
class Identity:
    """Who a site is to other sites: the certificate of its TLS, and the key to sign with."""

    name: str
    certificate: str
    private_key: str

    def sign(self, text: bytes) -> str:
        """A signature (ECDSA with SHA-256) in hexadecimal."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = serialization.load_pem_private_key(self.private_key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError("The site's key is not of an elliptic curve.", remedy="make it again: `soldiom site init`")
        return key.sign(text, ec.ECDSA(hashes.SHA256())).hex()


class Invitation(Record):
    """All that a coordinator needs to reach a site."""

    name: str = Field(pattern=NAME)
    address: str
    key: str = Field(min_length=32)
    certificate: str
    """PEM; the only one that is believed for this site."""


def create_site(settings: Settings, site: SiteSettings, address: str) -> Path:
    """Write a site's settings, a new key and a new certificate for the host of its address; the path of the
    invitation. InputError for an address without https."""
    host, _ = host_and_port(address)
    certificate, private_key = _self_signed(host)
    folder = site_folder(settings)
    write_private(folder / "key.pem", private_key)
    write_private(folder / "certificate.pem", certificate)
    invitation = Invitation(name=site.name, address=address, key=secrets.token_urlsafe(32), certificate=certificate)
    write_private(folder / "invitation.json", invitation.model_dump_json(indent=2))
    save_site(settings, site)
    return folder / "invitation.json"


def save_site(settings: Settings, site: SiteSettings) -> None:
    """Write a site's settings."""
    write_private(site_folder(settings) / "settings.json", site.model_dump_json(indent=2))


def load_site(settings: Settings) -> tuple[SiteSettings, Invitation]:
    """The settings and the invitation of the site in this home. NotFoundError when there is none."""
    folder = site_folder(settings)
    try:
        site = SiteSettings.model_validate_json((folder / "settings.json").read_text())
    except FileNotFoundError:
        raise NotFoundError(
            f"The home {settings.home} is no site.", remedy="SOLDIOM_HOME=HOME soldiom site init --data DATASET"
        ) from None
    except ValidationError as error:
        raise InputError(
            f"{folder / 'settings.json'} cannot be read: {error.error_count()} mistake(s).",
            remedy="make it again with `soldiom site init`",
        ) from error
    return site, read_invitation(folder / "invitation.json")


def confirm_peer(settings: Settings, site: SiteSettings, name: str, given: str) -> SiteSettings:
    """The site's settings, written, with another site's fingerprint (colons and capitals do not matter). InputError for
    what is none, or this site itself."""
    plain = given.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise InputError(
            f"{given[:80]!r} is no fingerprint: 64 hexadecimal digits.", remedy="`soldiom site trust` there"
        )
    if not re.fullmatch(NAME, name) or name == site.name:
        raise InputError(f"{name[:80]!r} is no other site's name.", remedy="`soldiom site trust` there says it")
    confirmed = site.model_copy(update={"peers": {**site.peers, name: plain}})
    save_site(settings, confirmed)
    return confirmed


def load_identity(settings: Settings, site: SiteSettings) -> Identity:
    """Who the site in this home is to other sites."""
    folder = site_folder(settings)
    return Identity(site.name, (folder / "certificate.pem").read_text(), (folder / "key.pem").read_text())


def fingerprint(certificate: str) -> str:
    """SHA-256 of a certificate in hexadecimal, as `openssl x509 -fingerprint -sha256` has it without colons; "" for
    one that cannot be read."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()
    except ValueError:
        return ""


def is_signed_by(certificate: str, text: bytes, signature: str) -> bool:
    """Whether who has the certificate's key signed a text."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(bytes.fromhex(signature), text, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def site_folder(settings: Settings) -> Path:
    """Where a site's settings lie."""
    return settings.home / "site"


def read_invitation(path: Path) -> Invitation:
    """The invitation in a file. InputError when it cannot be read."""
    try:
        return Invitation.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"No invitation can be read from {str(path)!r} ({type(error).__name__}).",
            remedy="the site makes it with `soldiom site init`, in site/invitation.json of its home",
        ) from error


def add_site(settings: Settings, invitation: Invitation) -> None:
    """Let this home, as a coordinator, know a site."""
    host_and_port(invitation.address)
    write_private(known_folder(settings) / f"{invitation.name}.json", invitation.model_dump_json(indent=2))


def remove_site(settings: Settings, name: str) -> None:
    """Forget a site. NotFoundError when it is not known."""
    known_site(settings, name)
    (known_folder(settings) / f"{name}.json").unlink()


def known_sites(settings: Settings) -> list[Invitation]:
    """The sites that this home knows, by name."""
    return [read_invitation(path) for path in sorted(known_folder(settings).glob("*.json"))]


def known_site(settings: Settings, name: str) -> Invitation:
    """One of them, by its name. NotFoundError with names that are near."""
    names = {path.stem: path for path in known_folder(settings).glob("*.json")}
    if name not in names:
        raise NotFoundError(
            f"No site {name[:100]!r} is known.{suggestion(name, names)}",
            remedy="soldiom site add INVITATION, or give the folder of a home on this machine",
        )
    return read_invitation(names[name])


def known_folder(settings: Settings) -> Path:
    """Where a coordinator keeps invitations."""
    return settings.keys_folder / "sites"


def home_of(site: str) -> Path | None:
    """The home that an entry of `federate.sites` names; None where it is the name of a known site."""
    return Path(site).expanduser() if is_local_path(site) else None


def host_and_port(address: str) -> tuple[str, int]:
    """Where an address leads. InputError for one that is not https://HOST[:PORT]."""
    try:
        parts = urlsplit(address)
        if parts.scheme == "https" and parts.hostname and parts.path in ("", "/") and not parts.query:
            return parts.hostname, parts.port or 443
    except ValueError:
        pass
    raise InputError(
        f"The address {address[:200]!r} is not https://HOST:PORT.", remedy="a site is reached by TLS alone"
    )


def _self_signed(host: str) -> tuple[str, str]:
    """(certificate, private key) as PEM for one host, which a coordinator pins."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[:64])])
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    with contextlib.suppress(ValueError):
        names = [x509.IPAddress(ipaddress.ip_address(host))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS_VALID))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_shown(invitation: Invitation) -> dict[str, str]:
    """An invitation without its key."""
    return {"name": invitation.name, "address": invitation.address}
