"""How often the label rules agree with labels given by hand to files of installed packages."""

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from soldiom_ray.collect.label import label

ROOT = Path(sysconfig.get_paths()["purelib"])
ROWS = [line.split("\t") for line in (Path(__file__).parent / "collect_labels.tsv").read_text().splitlines()]
KERAS_LAYER = """
import tensorflow as tf

class A(tf.keras.layers.Layer):
    def call(self, x):
        return x
"""


def test_kind_and_framework_agree_with_labels_given_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    present = [(path, kind, framework) for path, kind, framework in ROWS if (ROOT / path).is_file()]
    if len(present) < 30:
        pytest.skip("the packages whose files were labelled are not installed")
    told = {path: label(path, (ROOT / path).read_text(errors="replace")) for path, _, _ in present}
    pairs = Counter((kind, told[path].kind) for path, kind, _ in present)
    with capsys.disabled():
        print(f"\n{len(present)} files labelled by hand")
        for kind in sorted({kind for _, kind, _ in present}):
            hits = pairs[kind, kind]
            said = sum(count for (_, answer), count in pairs.items() if answer == kind)
            true = sum(count for (truth, _), count in pairs.items() if truth == kind)
            print(f"  {kind:14} precision {hits}/{said} recall {hits}/{true}")
        wrong = [f"{path}: {told[path].kind}, by hand {kind}" for path, kind, _ in present if told[path].kind != kind]
        print("  kind differs:", *wrong, sep="\n    ")
        other = [f"{p}: {told[p].framework}, by hand {f}" for p, _, f in present if told[p].framework != f]
        print("  framework differs:", *other, sep="\n    ")
    assert 1 - len(wrong) / len(present) >= 0.7
    assert 1 - len(other) / len(present) >= 0.85


@pytest.mark.parametrize(
    ("path", "text", "kind", "framework", "language"),
    [
        ("README.md", "# Hello", "documentation", "none", "markdown"),
        ("docs/guide.rst", "Guide", "documentation", "none", "restructuredtext"),
        ("conf/base.yaml", "lr: 1", "configuration", "none", "yaml"),
        ("requirements.txt", "torch", "configuration", "none", "text"),
        ("pkg/tests/util.py", "import jax", "test", "jax", "python"),
        ("net.py", KERAS_LAYER, "architecture", "tensorflow", "python"),
        ("run.py", "import torch\nloss.backward()\noptimizer.step()\n", "training", "pytorch", "python"),
        ("load.py", "class Pets(Dataset):\n    def __getitem__(self, i):\n        pass\n", "dataset", "none", "python"),
        ("words.py", "print('import torch')", "other", "none", "python"),
    ],
)  # fmt: skip
def test_small_files_are_labelled_by_what_they_hold(
    path: str, text: str, kind: str, framework: str, language: str
) -> None:
    told = label(path, text)
    assert (told.kind, told.framework, told.language) == (kind, framework, language)
