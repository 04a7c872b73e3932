"""What a coordinator and sites say to each other so that only a sum of updates is seen."""

from pydantic import Field, model_validator

from soldiom_ray.domains.federation import Weighting
from soldiom_ray.records import Record

MIN_SITES = 3
"""Of two sites each would know the other's update from the sum."""
WEIGHT, SAMPLES, VALIDATION_SAMPLES = "weight", "samples", "validation_samples"
COUNTS = (WEIGHT, SAMPLES, VALIDATION_SAMPLES)
"""Stand in the masked vector behind the update; the metrics, times the validation samples, stand behind them."""
HEX_KEY = r"^[0-9a-f]{64}$"
ATTEMPT = r"^[0-9a-f]{32}$"


class Secure(Record):
    """Updates leave a site in a sum alone, over at least `threshold` of these sites; the same for all rounds."""

    sites: tuple[str, ...] = Field(min_length=MIN_SITES, max_length=256)
    threshold: int
    weighting: Weighting = "samples"

    @model_validator(mode="after")
    def _hides(self) -> "Secure":
        if len(set(self.sites)) < len(self.sites) or not len(self.sites) / 2 < self.threshold <= len(self.sites):
            raise ValueError("the threshold must be more than half of the sites, each named once")
        return self


class Attempt(Record):
    """Names one attempt at a round's sum; keys and masks are new in each."""

    attempt: str = Field(pattern=ATTEMPT)


class Announcement(Record):
    """What a site tells the others at the beginning of an attempt."""

    messages: str = Field(pattern=HEX_KEY)
    """Public key for letters to it."""
    masks: str = Field(pattern=HEX_KEY)
    """Public key for the masks between it and another."""
    metrics: tuple[str, ...] = ()
    """Names of what it measured; none where it has no validation side."""
    prompt_format: str = "text"
    sequence_length: int = 0
    certificate: str
    """Of its TLS, with whose key it signs."""
    signature: str = ""


class Group(Attempt):
    """The sites of an attempt."""

    members: dict[str, Announcement]


class Letters(Attempt):
    """Sealed shares: by receiver where a site answers with them, by sender where it is sent them."""

    letters: dict[str, str]


class Survivors(Attempt):
    """The sites whose masked vectors came: those that are in the sum."""

    names: tuple[str, ...]


class Shares(Record):
    """What a site reveals, by name: a share of the own mask of a site that is in the sum, of the mask key of one
    that is not."""

    own_masks: dict[str, str]
    mask_keys: dict[str, str]


def common_metrics(members: dict[str, Announcement]) -> tuple[str, ...]:
    """The metrics of all members that measured some."""
    told = [set(each.metrics) for each in members.values() if each.metrics]
    return tuple(sorted(set.intersection(*told))) if told else ()


def purpose(federation: str, number: int, attempt: str, task: str) -> str:
    """What keys of one attempt are for: sites that were sent different tasks agree on none."""
    return f"{federation} round {number} attempt {attempt} task {task}"


def signed_text(where: str, name: str, announcement: Announcement) -> bytes:
    """What a site signs."""
    return f"{where} site {name}\n{announcement.model_dump_json(exclude={'signature'})}".encode()
