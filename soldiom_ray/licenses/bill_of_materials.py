"""A model version's bill of materials in CycloneDX 1.6 (JSON): its weights, the models it was built on, its data by
licence, the libraries that trained it, and what depends on what."""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from soldiom_ray.db.tables import Model
from soldiom_ray.records import Manifest

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

NAMESPACE = uuid.UUID("5c1d4f0a-5f5e-4a0e-9a38-0d6f2c0a7b11")
"""Of the documents' serial numbers: the same version always has the same one."""


def bill_of_materials(row: Model, bases: Iterable[Model], run: Manifest | None) -> dict[str, Any]:
    """The document for one version. `bases` are the models that it was built on, the nearest first; `run` made it, None
    for a base from elsewhere."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    model = _model(row, _weights(run))
    parts = [*(_model(base) for base in bases), *_data(row), *_libraries(run)]
    bom = Bom(components=parts, serial_number=uuid.uuid5(NAMESPACE, row.id))
    bom.metadata.component = model
    bom.metadata.timestamp = row.created_at
    bom.register_dependency(model, parts)
    document: dict[str, Any] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    return document


def _model(row: Model, files: "Iterable[Component]" = ()) -> "Component":
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    lineage = row.lineage or {}
    facts = {name: lineage.get(name) for name in ("run", "method", "task", "fingerprint", "use")}
    return Component(
        name=f"{row.family}/{row.name}",
        version=str(row.version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=row.id,
        licenses=_licenses(row.license),
        components=list(files),
        properties=[Property(name=f"soldiom:{name}", value=str(value)) for name, value in facts.items() if value],
    )


def _weights(run: Manifest | None) -> "list[Component]":
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    if run is None:
        return []
    return [
        Component(
            name=entry.name,
            type=ComponentType.FILE,
            bom_ref=f"{run.id}/{entry.name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry.sha256)],
        )
        for entry in run.files
        if entry.name.startswith("weights/")
    ]


def _data(row: Model) -> "list[Component]":
    """The data that was trained on, a component for each licence."""
    from cyclonedx.model.component import Component, ComponentType

    ingredients = [each for each in row.lineage.get("ingredients") or () if each.get("part") == "data"]
    return [
        Component(
            name=f"{row.dataset_id or 'data'}: {each['license'] or 'no licence'}",
            type=ComponentType.DATA,
            bom_ref=f"data-{number}",
            licenses=_licenses(each["license"]),
            description=f"{each['documents']} documents of {each['sources']} sources, the first: {each['subject']}",
        )
        for number, each in enumerate(ingredients)
    ]


def _libraries(run: Manifest | None) -> "list[Component]":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    software: Mapping[str, str] = run.details.get("software", {}) if run else {}
    return [
        Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=f"pypi-{name}",
            purl=PackageURL("pypi", name=name, version=version),
        )
        for name, version in sorted(software.items())
    ]


def _licenses(expression: str) -> "list[License]":
    from cyclonedx.factory.license import LicenseFactory

    return [LicenseFactory().make_from_string(expression)] if expression else []
