"""Requests that Schemathesis makes up from the API's own description, as every role and as nobody: no fault, no answer
that the description does not know. `make security` makes many more of them (SOLDIOM_FUZZ_EXAMPLES)."""

import os
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import response_schema_conformance

from soldiom_ray.records import ROLES

EXAMPLES = int(os.environ.get("SOLDIOM_FUZZ_EXAMPLES", "2"))
"""Requests to each operation."""
LEFT_OUT = ("/api/training/jobs/{job_id}/logs", "/readyz")
"""One may answer without an end; the other's 503 is a list of services and no problem."""


def operations(description: dict[str, Any]) -> list[Any]:
    """The operations of the description."""
    return [result.ok() for result in schemathesis.openapi.from_dict(description).get_all_operations()]


@pytest.mark.parametrize("role", ["nobody", *ROLES])
def test_no_request_that_fits_the_description_meets_a_fault(role: str, api_url: str, api_keys: dict[str, str]) -> None:
    description = httpx.get(f"{api_url}/openapi.json").json()
    headers = {} if role == "nobody" else {"Authorization": f"Bearer {api_keys[role]}"}
    asked: dict[int, int] = {}
    with httpx.Client(base_url=api_url, headers=headers, timeout=30) as client:
        for operation in operations(description):
            if operation.path in LEFT_OUT:
                continue
            probe(operation, client, asked)
    assert sum(asked.values()) >= EXAMPLES * 50
    if role == "nobody":
        assert set(asked) <= {200, 307, 401, 404, 405, 422, 503}, asked
    else:
        assert asked.get(401, 0) == 0, asked


def probe(operation: Any, client: httpx.Client, asked: dict[int, int]) -> None:
    """Ask one operation so often, and judge each answer."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES <= 2, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        response = case.call(base_url=str(client.base_url), headers=dict(client.headers), timeout=30)
        asked[response.status_code] = asked.get(response.status_code, 0) + 1
        where = f"{operation.label}: {response.status_code} {response.text[:300]}"
        # 503 is the answer where a job would begin: these tests start no Ray.
        assert response.status_code < 500 or response.status_code == 503, where
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"], where
            assert response.json()["status"] == response.status_code, where
        else:
            case.validate_response(response, checks=[response_schema_conformance])

    ask()
