"""Updates of several sites become one, also where some of them are harmful."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soldiom_ray.domains.federation import Federate
from soldiom_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Update = dict[str, "npt.NDArray[np.float32]"]


def check_update(site: str, update: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """InputError, which names the site and a tensor, for an update that is not one of this adapter: other names, shapes
    or types, numbers that are not finite."""
    import numpy as np

    remedy = "look at the site's data and log; it was left out of this round"
    if update.keys() != expected.keys():
        name = sorted(update.keys() ^ expected.keys())[0]
        raise InputError(
            f"The update of site {site} has other tensors than the adapter, such as {name!r}.", remedy=remedy
        )
    for name, array in update.items():
        if array.shape != expected[name].shape or array.dtype != np.float32:
            raise InputError(
                f"The update of site {site} has {name!r} as {array.dtype} {list(array.shape)},"
                f" not float32 {list(expected[name].shape)}.",
                remedy=remedy,
            )
        if not np.isfinite(array).all():
            raise InputError(f"The update of site {site} has numbers that are not finite in {name!r}.", remedy=remedy)


def combine(updates: Sequence[Update], samples: Sequence[int], federate: Federate) -> tuple[Update, list[int]]:
    """(joined update, positions of the updates that it was made of), in the declared way.

    `samples` are the weights of `weighting: samples`. All updates were checked; there are at least `min_sites`."""
    if federate.aggregation == "trimmed_mean":
        return trimmed_mean(updates, federate.harmful), list(range(len(updates)))
    if federate.aggregation == "krum":
        chosen = krum(updates, federate.harmful)
        return updates[chosen], [chosen]
    weights = [max(0, count) for count in samples] if federate.weighting == "samples" else [1] * len(updates)
    return weighted_mean(updates, weights), list(range(len(updates)))


def weighted_mean(updates: Sequence[Update], weights: Sequence[int]) -> Update:
    """Federated averaging (McMahan et al. 2017). InputError when no update weighs anything."""
    import numpy as np

    total = sum(weights)
    if not total:
        raise InputError("No site has a sample to learn from.", remedy="look at their datasets, or `weighting: equal`")
    return {
        name: sum(
            (
                update[name].astype(np.float64) * (weight / total)
                for update, weight in zip(updates, weights, strict=True)
            ),
            start=np.zeros(updates[0][name].shape),
        ).astype(np.float32)
        for name in updates[0]
    }


def trimmed_mean(updates: Sequence[Update], harmful: int) -> Update:
    """Of every number the mean without the `harmful` largest and smallest (Yin et al. 2018)."""
    import numpy as np

    return {
        name: np.sort(np.stack([update[name] for update in updates]), axis=0)[harmful : len(updates) - harmful]
        .mean(axis=0, dtype=np.float64)
        .astype(np.float32)
        for name in updates[0]
    }


def krum(updates: Sequence[Update], harmful: int) -> int:
    """The position of the update that is nearest to its len(updates) - harmful - 2 nearest ones (Blanchard et al.
    2017)."""
    import numpy as np

    flat = np.stack([np.concatenate([update[name].ravel() for name in sorted(update)]) for update in updates])
    flat = flat.astype(np.float64)
    distances = np.stack([np.square(flat - row).sum(axis=1) for row in flat])
    near = np.sort(distances, axis=1)[:, 1 : len(updates) - harmful - 1]
    return int(near.sum(axis=1).argmin())
