"""The sites of a federation, opened: those that are known by name, and homes on this machine, which are started."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from soldiom_ray.artifacts import Context
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.federate.client import SiteClient
from soldiom_ray.federate.site_settings import home_of, known_site, load_site
from soldiom_ray.settings import environment_of, load_settings

START_SECONDS = 60.0
STOP_SECONDS = 15.0
SERVE = "from soldiom_ray.cli import main; main()"


@contextmanager
def open_sites(context: Context, names: Sequence[str]) -> Iterator[list[SiteClient]]:
    """A client for each site. Processes of homes on this machine that were started here end with the context.

    One that does not start is told as a note. NotFoundError for a site that is not known, or a home that is none."""
    with ExitStack() as stack:
        sites: list[SiteClient] = []
        for name in names:
            home = home_of(name)
            invitation = (
                known_site(context.settings, name)
                if home is None
                else load_site(load_settings({"SOLDIOM_HOME": str(home)}))[1]
            )
            site = SiteClient(invitation)
            stack.callback(site.close)
            if home is not None and not _answers(site):
                try:
                    stack.enter_context(_started(home, site))
                except UnavailableError as error:  # it is one that is down, which may come later
                    context.notify([str(error)])
            sites.append(site)
        if len({site.name for site in sites}) < len(sites):
            raise InputError("Two sites of the federation have the same name.", remedy="soldiom site init --name NAME")
        yield sites


@contextmanager
def _started(home: Path, site: SiteClient) -> Iterator[None]:
    log_path = home / "site" / "server.log"
    with log_path.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "site", "serve"],
            env=environment_of(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(site):
            if process.poll() is not None or time.monotonic() > until:
                raise UnavailableError(
                    f"The site in {home} does not start.", remedy=f"see {log_path}, or try `soldiom site serve` there"
                )
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(site: SiteClient) -> bool:
    try:
        site.info()
    except UnavailableError:
        return False
    return True
