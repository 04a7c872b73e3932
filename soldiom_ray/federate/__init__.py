"""Several sites train one adapter; each keeps its data, and only updates of the adapter leave it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soldiom_ray.artifacts import Context
    from soldiom_ray.domains.federation import Federate
    from soldiom_ray.domains.schema import Train
    from soldiom_ray.records import Manifest


def federate(context: "Context", declared: "Train", federation: "Federate") -> "Manifest":
    """The run that the sites of a federation train together. One made before by the same sites on the same datasets is
    returned at once; killed or cancelled, a second call goes on after the last round that was joined.

    Sites that are homes on this machine are started, and ended. NotFoundError for a site that is not known, InputError
    for a base that cannot be trained, UnavailableError when a round has too few updates."""
    from soldiom_ray.federate.coordinator import coordinate

    return coordinate(context, declared, federation)
