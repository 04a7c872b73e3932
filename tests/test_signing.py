"""Weights are signed by the home that trained them, and nothing else is loaded."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import small_base, small_context, small_dataset, small_run, small_settings, tuned
from training import context_in, dataset_in, declared, quiet, two_layer_model
from typer.testing import CliRunner

from soldiom_ray.artifacts import Context
from soldiom_ray.cli.app import app
from soldiom_ray.errors import DamagedError, InputError
from soldiom_ray.models import signing
from soldiom_ray.models.load import load_run, model_folder
from soldiom_ray.models.package_model import package_run
from soldiom_ray.models.signing import PRIVATE_KEY, PUBLIC_KEY, SIGNATURE, TRUSTED, verify_run
from soldiom_ray.records import Manifest
from soldiom_ray.train.work import prepare_work
from soldiom_ray.train.worker import run_worker

GROUPS = {"train": {"alpha": 3}, "validation": {"beta": 1}, "test": {"gamma": 2}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    base = small_base(root / "small-base")
    return {"base": base, "tuned": tuned(base, root / "tuned", 2)}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return small_context(small_settings(tmp_path / "home"))


def run_in(context: Context, folders: dict[str, Path], **details: str) -> Manifest:
    return small_run(context, small_dataset(context, GROUPS), folders["tuned"], folders["base"], **details)


def stored(context: Context, run: Manifest) -> Path:
    """The folder of a run in storage."""
    return context.settings.home / "storage" / "run" / run.id


def load(context: Context, run: Manifest) -> None:
    with load_run(context.artifacts, context.settings, run) as (model, _):
        assert model.config.vocab_size


def swap(folder: Path) -> None:
    """Another run's weights and signature, as they are."""
    other = next(each for each in folder.parent.iterdir() if each != folder)
    shutil.copy(other / SIGNATURE, folder / SIGNATURE)


def garbage(folder: Path) -> None:
    (folder / SIGNATURE).write_text('{"dsseEnvelope": []}')


def forged(folder: Path) -> None:
    bundle = json.loads((folder / SIGNATURE).read_text())
    signature = bundle["dsseEnvelope"]["signatures"][0]
    signature["sig"] = signature["sig"][:10] + ("A" if signature["sig"][10] != "A" else "B") + signature["sig"][11:]
    (folder / SIGNATURE).write_text(json.dumps(bundle))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (lambda folder: flip(folder / "weights" / "model.safetensors"), "model.safetensors changed"),
    "a file more": (lambda folder: (folder / "weights" / "second.jinja").write_text("!"), "second.jinja added"),
    "a hidden file more": (lambda folder: (folder / "weights" / ".gitignore").write_text("!"), ".gitignore added"),
    "a file less": (lambda folder: (folder / "weights" / "config.json").unlink(), "config.json missing"),
    "no signature": (lambda folder: (folder / SIGNATURE).unlink(), "are not signed"),
    "no bundle": (garbage, "a key that this home does not know"),
    "a forged signature": (forged, "not what was signed"),
    "another run's signature": (swap, "this is the signature of run-"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("digest", [b"plain", b"a'b", b'a"b', b"""a'"b"""])
def test_a_changed_file_is_named_whatever_bytes_its_digest_has(digest: bytes) -> None:
    told = [f"Hash mismatch for 'model.safetensors': Expected '{digest!r}', Actual '{b'other'!r}'"]
    assert signing._differences(f"Signature mismatch: {told}") == "model.safetensors changed"


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_are_not_what_was_signed_are_not_loaded(
    damage: str, context: Context, folders: dict[str, Path]
) -> None:
    run_in(context, folders, rank="other")
    run = run_in(context, folders)
    load(context, run)
    hurt, reason = DAMAGES[damage]
    hurt(stored(context, run))
    with pytest.raises(DamagedError, match=reason) as caught:
        load(context, run)
    assert run.id in str(caught.value) and "Digest(" not in str(caught.value)
    with pytest.raises(DamagedError), model_folder(context.settings, context.artifacts, run.id):
        pass


def test_weights_that_were_changed_are_not_packaged(
    context: Context, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLDIOM_HOME", str(context.settings.home))
    monkeypatch.setattr("soldiom_ray.models.package_model.BUILTIN_FOLDER", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    run = run_in(context, folders)
    flip(stored(context, run) / "weights" / "model.safetensors")
    with pytest.raises(DamagedError, match="changed"):
        package_run(context.artifacts, run.id)
    assert (tmp_path / "tiny" / "config.json").read_text() == "{}"


def test_a_file_that_a_killed_write_left_behind_hurts_nothing(context: Context, folders: dict[str, Path]) -> None:
    run = run_in(context, folders)
    (stored(context, run) / "weights" / ".draft-x7").write_bytes(b"half")
    load(context, run)


def test_what_was_trained_before_there_were_signatures_is_signed_once(
    context: Context, folders: dict[str, Path]
) -> None:
    run = run_in(context, folders)
    gone = run_in(context, folders, rank="without-weights")
    shutil.rmtree(stored(context, gone) / "weights")
    (stored(context, run) / SIGNATURE).unlink()
    signed = run_in(context, folders, rank="signed by another")
    for name in (PRIVATE_KEY, PUBLIC_KEY):
        (context.settings.keys_folder / name).unlink()
    load(context, run)
    with pytest.raises(DamagedError, match="a key that this home does not know"):
        load(context, signed)
    assert (context.settings.keys_folder / PRIVATE_KEY).stat().st_mode & 0o777 == 0o600
    (stored(context, run) / SIGNATURE).unlink()
    with pytest.raises(DamagedError, match="not signed"):
        load(context, run)


def test_a_signer_of_another_home_is_trusted_when_its_key_is_put_there(
    context: Context, folders: dict[str, Path], tmp_path: Path
) -> None:
    run = run_in(context, folders)
    other = small_context(small_settings(tmp_path / "other"))
    run_in(other, folders, rank="its own")
    shutil.copytree(stored(context, run), stored(other, run))
    with pytest.raises(DamagedError, match="a key that this home does not know") as caught:
        load(other, run)
    trusted = other.settings.keys_folder / TRUSTED
    assert str(trusted) in str(caught.value)
    trusted.mkdir()
    shutil.copy(context.settings.keys_folder / PUBLIC_KEY, trusted / "friend.pub")
    load(other, run)


def test_machines_that_share_a_bucket_and_no_home_sign_only_with_a_key_that_all_have(
    context: Context, folders: dict[str, Path], tmp_path: Path
) -> None:
    bucket = [
        replace(context, settings=replace(small_settings(tmp_path / name), storage="s3://bucket/models"))
        for name in ("head", "worker")
    ]
    head, worker = bucket
    run = run_in(worker, folders)
    assert not (stored(context, run) / SIGNATURE).exists()
    load(head, run)
    with pytest.raises(InputError, match="no key for signatures"):
        verify_run(head.settings, head.artifacts, run.id)
    other = small_context(small_settings(tmp_path / "other"))
    run_in(other, folders)
    for each in bucket:
        shutil.copytree(other.settings.keys_folder, each.settings.keys_folder)
    with pytest.raises(DamagedError, match="not signed"):
        load(head, run)
    load(head, run_in(worker, folders, rank="signed"))


def test_the_command_line_verifies_and_signs(
    context: Context, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLDIOM_HOME", str(context.settings.home))
    run = run_in(context, folders)

    def verify() -> tuple[int, str]:
        result = CliRunner().invoke(app, ["models", "verify", run.id, "--json"])
        return result.exit_code, result.output

    code, output = verify()
    assert code == 0 and json.loads(output)["signed"] is True
    (stored(context, run) / SIGNATURE).unlink()
    assert verify()[0] == 1
    (stored(context, run) / "weights" / "added.txt").write_text("added before it was signed anew")
    assert CliRunner().invoke(app, ["models", "sign", run.id]).exit_code == 0
    assert verify()[0] == 0
    manifest = context.artifacts.get(run.id)
    assert context.artifacts.read(manifest, SIGNATURE) == (stored(context, run) / SIGNATURE).read_bytes()
    assert [each for each in manifest.files if each.name != SIGNATURE] == [
        each for each in run.files if each.name != SIGNATURE
    ]


def test_a_training_signs_what_the_field_s_own_tool_verifies(tmp_path: Path) -> None:
    context = context_in(tmp_path / "home")
    base = two_layer_model(tmp_path / "base")
    _, work = prepare_work(context, dataset_in(context.artifacts), declared(base))
    assert work is not None
    run_worker(work, context.artifacts, quiet, lambda record: None)
    folder = tmp_path / "home" / "storage" / "run" / work.run
    command = [sys.executable, "-m", "model_signing", "verify", "key", "--signature", str(folder / SIGNATURE)]
    command += ["--public_key", str(context.settings.keys_folder / PUBLIC_KEY), str(folder / "weights")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
