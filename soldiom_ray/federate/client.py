"""How a coordinator asks a site: over TLS, whose certificate is the one of the invitation and no other."""

import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from soldiom_ray.errors import InputError, SoldiomError, UnavailableError
from soldiom_ray.federate.messages import MASKED, MAX_BYTES, SiteInfo, SiteReport, SiteState, unpack
from soldiom_ray.federate.secure_messages import Announcement, Attempt, Group, Letters, Shares, Survivors
from soldiom_ray.federate.site_settings import Invitation, fingerprint, host_and_port
from soldiom_ray.records import Record

if TYPE_CHECKING:
    from soldiom_ray.federate.masks import Numbers

Answer = TypeVar("Answer", bound=Record)
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 60.0


class SiteClient:
    """One site, asked by a coordinator. UnavailableError when it does not answer; its own errors come back as they are,
    with its name."""

    def __init__(self, invitation: Invitation) -> None:
        import httpx

        host_and_port(invitation.address)
        self.name, self.address = invitation.name, invitation.address.rstrip("/")
        self._fingerprint = fingerprint(invitation.certificate)
        self.bytes_sent, self.bytes_received = 0, 0
        """Of all bodies."""
        context = ssl.create_default_context(cadata=invitation.certificate)
        self._client = httpx.Client(
            base_url=self.address,
            headers={"Authorization": f"Bearer {invitation.key}"},
            verify=context,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    def info(self) -> SiteInfo:
        """What the site says of itself. InputError when it is another site than the invitation's."""
        info = self._parse("GET", "/site", SiteInfo)
        if info.name != self.name:
            raise InputError(f"The site at {self.address} is {info.name[:60]!r}, not {self.name!r}.")
        return info

    def begin(self, message: bytes) -> SiteState:
        """Send the task of a round."""
        return self._parse("POST", "/rounds", SiteState, content=message)

    def state(self, federation: str, number: int) -> SiteState:
        """Where the site stands with a round."""
        return self._parse("GET", f"/federations/{federation}/rounds/{number}", SiteState)

    def update(self, federation: str, number: int) -> tuple[SiteReport, dict[str, Any]]:
        """(report, update) of a round."""
        data = self._call("GET", f"/federations/{federation}/rounds/{number}/update")
        return unpack(data, SiteReport, f"site {self.name}")

    def announce(self, federation: str, number: int, asked: Attempt) -> Announcement:
        """Begin an attempt at a sum. InputError when the site signs with another certificate than the invitation's."""
        told = self._step(federation, number, "keys", asked, Announcement)
        if fingerprint(told.certificate) != self._fingerprint:
            raise InputError(f"Site {self.name} signs with another certificate than its invitation's.")
        return told

    def share(self, federation: str, number: int, group: Group) -> Letters:
        """The shares of the site's secrets for the others."""
        return self._step(federation, number, "shares", group, Letters)

    def masked(self, federation: str, number: int, letters: Letters) -> "Numbers":
        """The site's masked update."""
        path, content = f"/federations/{federation}/rounds/{number}/masked", letters.model_dump_json()
        _, tensors = unpack(self._call("POST", path, content=content), Attempt, f"site {self.name}")
        numbers = tensors.get(MASKED)
        if numbers is None or numbers.dtype.name != "uint64" or numbers.ndim != 1:
            raise InputError(f"Site {self.name} sent no masked update.")
        return numbers

    def reveal(self, federation: str, number: int, survivors: Survivors) -> Shares:
        """What removes the masks that are left in the sum of these sites."""
        return self._step(federation, number, "revealed", survivors, Shares)

    def _step(self, federation: str, number: int, step: str, content: Record, kind: type[Answer]) -> Answer:
        path = f"/federations/{federation}/rounds/{number}/{step}"
        return self._parse("POST", path, kind, content=content.model_dump_json())

    def forget(self, federation: str) -> None:
        """Tell the site that a federation has ended."""
        self._call("DELETE", f"/federations/{federation}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _parse(self, method: str, path: str, kind: type[Answer], **options: Any) -> Answer:
        try:
            return kind.model_validate_json(self._call(method, path, **options))
        except ValueError as error:
            raise InputError(
                f"Site {self.name} answers what is not understood.", remedy="have it run the same version of Soldiom"
            ) from error

    def _call(self, method: str, path: str, **options: Any) -> bytes:
        import httpx

        self.bytes_sent += len(options.get("content", b""))
        try:
            with self._client.stream(method, path, **options) as response:
                parts, size = [], 0
                for part in response.iter_bytes():
                    size += len(part)
                    if size > MAX_BYTES:
                        raise InputError(f"Site {self.name} sends more than {MAX_BYTES >> 20} MiB.")
                    parts.append(part)
        except (httpx.HTTPError, ssl.SSLError) as error:
            reason = "its certificate is not the invitation's" if "CERTIFICATE" in str(error) else type(error).__name__
            raise UnavailableError(
                f"Site {self.name} at {self.address} does not answer ({reason}).",
                remedy="`soldiom site serve` runs it; if it was set up anew, add its new invitation",
            ) from error
        body = b"".join(parts)
        self.bytes_received += len(body)
        if response.status_code >= 400:
            raise _named(self.name, response.status_code, body)
        return body


def _named(name: str, status: int, body: bytes) -> SoldiomError:
    import json

    try:
        error = SoldiomError.from_problem(json.loads(body))
    except (ValueError, AttributeError, TypeError):
        return UnavailableError(f"Site {name} answers with status {status}.")
    return type(error)(f"Site {name}: {error.what}", remedy=error.remedy, problems=error.problems)
