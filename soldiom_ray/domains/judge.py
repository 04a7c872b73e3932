"""The model that compares answers where no metric fits, as a recipe names it."""

from pydantic import Field, field_validator

from soldiom_ray.domains.connections import check_endpoint
from soldiom_ray.domains.references import ENDPOINT
from soldiom_ray.records import Record

CRITERIA = (
    "The better answer is the one that is more correct, does more of what was asked and says it more clearly. Length"
    " alone makes an answer neither better nor worse."
)


class Judge(Record):
    """A model behind the OpenAI protocol that says which of two answers is better. The key that it asks for is the
    setting SOLDIOM_JUDGE_API_KEY, which goes to SOLDIOM_JUDGE_URL alone."""

    url: str | None = Field(
        None,
        max_length=2000,
        description="address of an OpenAI-compatible API, such as https://HOST/v1; unset: SOLDIOM_JUDGE_URL",
        json_schema_extra=ENDPOINT,
    )
    model: str = Field(min_length=1, max_length=200, description="name of the model there")
    criteria: str = Field(CRITERIA, max_length=4000, description="what makes one answer better than another")
    pairs: int = Field(50, ge=1, le=2000, description="answers at most that are judged, each twice")
    ratings: int = Field(
        50, ge=0, le=2000, description="pairs at most that people have rated, asked to tell how far the judge agrees"
    )
    max_tokens: int = Field(
        64, ge=1, le=8192, description="tokens of a verdict at most; a model that reasons first needs more"
    )
    timeout_seconds: float = Field(120.0, gt=0, le=3600, description="time limit of each request, from start to end")
    private: bool = Field(False, description="administrators only: the address may be private")

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str | None) -> str | None:
        """Without what could carry a secret, which would stand in the stored recipe."""
        if url is None:
            return None
        check_endpoint(url)
        if "?" in url or "#" in url:
            raise ValueError("`url` holds a query; name the API's address alone, such as https://HOST/v1")
        return url.rstrip("/")
