"""Who may name what of the server in a recipe: the one place that decides, when a recipe comes in through the API and
again when its job begins.

Whoever runs the server starts jobs with the command line and may name any path. What comes through the API names
uploads; an administrator of the tenant `default` may also name what lies in the folders of SOLDIOM_API_FOLDERS. A link
in such a folder that leads out of it is refused.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from soldiom_ray.domains.connections import read_database_url
from soldiom_ray.domains.references import Reference, is_local_path, references
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import DatabaseSource, UrlSource
from soldiom_ray.errors import DeniedError, Problem
from soldiom_ray.records import COMMAND_LINE
from soldiom_ray.settings import HOME_TENANT, Settings

POCKETSPHINX = "pocketsphinx"

Folders = tuple[Path, ...] | None
"""Folders of the server whose files may be read; None: all."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the author of a recipe may name: paths within `folders`, and `private` addresses."""

    folders: Folders
    private: bool


OPERATOR = Access(None, private=True)


def access_through_api(settings: Settings, tenant: str, *, is_admin: bool) -> Access:
    """What comes with a key may name."""
    trusted = is_admin and tenant == HOME_TENANT
    return Access(settings.api_folders if trusted else (), private=trusted)


def access_of_job(settings: Settings, owner: str, tenant: str) -> Access:
    """What the recipe of a job may name. Roles were checked when it came in."""
    return OPERATOR if owner == COMMAND_LINE else access_through_api(settings, tenant, is_admin=True)


def check_access(recipe: Recipe, access: Access) -> None:
    """DeniedError that names every field with a path or a private address that the recipe's author may not name. What
    exists on the server does not change the answer."""
    problems = [
        Problem(reference.location, "names a path of the server")
        for reference in references(recipe)
        if (path := server_path(reference)) is not None and not _is_allowed(reference, Path(path), access.folders)
    ]
    if problems:
        raise DeniedError(
            "Paths of the server can only be named by whoever runs it, and by an admin in folders opened for that.",
            remedy="upload the files and name their ids in `inputs`; SOLDIOM_API_FOLDERS opens folders to"
            f" administrators of the tenant {HOME_TENANT!r}",
            problems=problems,
        )
    private = [
        Problem(f"collect[{index}].private", "is set")
        for index, source in enumerate(recipe.collect or ())
        if isinstance(source, DatabaseSource | UrlSource) and source.private and not access.private
    ]
    if recipe.evaluate and recipe.evaluate.judge and recipe.evaluate.judge.private and not access.private:
        private.append(Problem("evaluate.judge.private", "is set"))
    if recipe.federate is not None and not access.private:
        raise DeniedError(
            f"Sites are asked only by whoever runs the server and by admins of the tenant {HOME_TENANT!r}.",
            remedy="have one of them start it",
        )
    if private:
        raise DeniedError(
            f"Private addresses can only be reached by an admin of the tenant {HOME_TENANT!r}.",
            remedy="leave out `private`; SOLDIOM_PRIVATE_HOSTS allows single hosts to everyone",
            problems=private,
        )


def server_path(reference: Reference) -> str | None:
    """The path of the server that a reference names, or None."""
    match reference.kind:
        case "path":
            return reference.value
        case "speech model":
            return None if reference.value == POCKETSPHINX else reference.value
        case "model" | "site":
            return reference.value if is_local_path(reference.value) else None
        case "database":
            address, _ = read_database_url(reference.value)
            return address.socket or (address.database if address.backend == "sqlite" else None)
    return None


def _is_allowed(reference: Reference, path: Path, folders: Folders) -> bool:
    """Whether a path lies in the folders. Nothing outside is looked at; a model is read as a whole, so no link in its
    folder may lead out. Of a folder of documents each file is judged by itself, when it is read."""
    if folders is None:
        return True
    if reference.kind == "site":  # a process is started in such a home
        return False
    if not path.is_absolute() or ".." in path.parts or "\0" in str(path):
        return False
    if not any(path.is_relative_to(folder) for folder in folders) or not is_within(path, folders):
        return False
    return reference.kind == "path" or all(is_within(link, folders) for link in _links(path))


def is_within(path: Path, folders: Folders) -> bool:
    """Whether a path lies in the folders once its links are followed."""
    if folders is None:
        return True
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # a circle of links
        return False
    return any(target.is_relative_to(folder.resolve()) for folder in folders)


def read_within(path: Path, folders: Folders) -> bytes:
    """A file's bytes. PermissionError when what was opened lies outside the folders, whatever it was a moment before;
    other errors as `Path.read_bytes`."""
    with path.open("rb") as file:
        if folders is not None and not is_within(Path(os.readlink(f"/proc/self/fd/{file.fileno()}")), folders):
            raise PermissionError("leads out of the folders that may be read")
        return file.read()


def _links(path: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(path):
        yield from (child for name in (*folders, *files) if (child := Path(parent) / name).is_symlink())
