"""Sites of a federation in this process: homes of their own with small data, served over TLS on this machine."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from small_models import small_base
from training import context_in

from soldiom_ray.artifacts import Context
from soldiom_ray.federate.server import make_site_app
from soldiom_ray.federate.site import Site
from soldiom_ray.federate.site_settings import Invitation, SiteSettings, add_site, create_site, load_site, site_folder
from soldiom_ray.records import Manifest, Sample

WORDS = {"ham": ("lunch", "home", "later", "meeting", "see you"), "spam": ("prize", "win", "free", "claim", "cash")}


def labelled_dataset(context: Context, labels: Sequence[str], count: int = 24, validation: int = 8) -> Manifest:
    """Short texts whose words tell their labels."""
    draft = context.artifacts.draft(
        "dataset", {"labels": list(labels), "count": count, "home": str(context.settings.home)}
    )
    for split, size in (("train", count), ("validation", validation)):
        rows = []
        for number in range(size):
            label = labels[number % len(labels)]
            words = WORDS[label]
            text = f"{words[number % 5]} {words[(number * 3 + 1) % 5]} {number % 7}"
            values = {"id": f"{split}{number}", "text": text, "split": split, "source": "user", "kind": "other"}
            rows.append(dict.fromkeys(Sample.model_fields, "") | values | {"metadata": json.dumps({"label": label})})
        draft.write_rows(f"{split}/00000.parquet", rows, Sample)
    return draft.commit(counts={"train": count, "validation": validation})


@dataclass
class Running:
    """A site that runs, and how to stop and start it."""

    context: Context
    site: Site
    invitation: Invitation
    server: uvicorn.Server
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.site.close()


def start(context: Context, site: Site | None = None) -> Running:
    """Serve the site of a home at its address."""
    settings, invitation = load_site(context.settings)
    site = site or Site(context.settings, settings)
    folder = site_folder(context.settings)
    port = int(invitation.address.rpartition(":")[2])
    config = uvicorn.Config(
        make_site_app(site, invitation.key), host="127.0.0.1", port=port, log_level="critical", lifespan="off",
        ssl_certfile=str(folder / "certificate.pem"), ssl_keyfile=str(folder / "key.pem"),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return Running(context, site, invitation, server, thread)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_sites(
    folder: Path, coordinator: Context, labels: dict[str, Sequence[str]], **settings: Any
) -> Iterator[dict[str, Running]]:
    """A site for each name, with texts of these labels, known to the coordinator; updates leave at once."""
    running: dict[str, Running] = {}
    for name, own in labels.items():
        context = context_in(folder / name)
        dataset = labelled_dataset(context, own)
        values = {"name": name, "dataset": dataset.id, "approve": "always", "bases": ("*",)} | settings
        create_site(context.settings, SiteSettings.model_validate(values), f"https://127.0.0.1:{free_port()}")
        add_site(coordinator.settings, load_site(context.settings)[1])
        running[name] = start(context)
    try:
        yield running
    finally:
        for site in running.values():
            site.stop()


def small_encoder(folder: Path) -> Path:
    """A two-layer model with random weights that reads texts."""
    return small_base(folder)
