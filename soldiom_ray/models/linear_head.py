"""A classifier's head that is fitted, not trained: logistic regression on the vector of a text, as its body gives it
before any training, and on the text's tokens (TF-IDF).

For some thousand short texts with dozens of labels: gradient steps learn the frequent labels first and have too few
samples for the rare ones, while a pretrained body's vectors and the words that name a label part them at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]
    Ids = Sequence[npt.NDArray[Any]]
    Vectors = npt.NDArray[np.float32]

FILE = "linear_head.safetensors"
PARTS = ("tokens", "idf", "words", "body", "bias")
MAX_SAMPLE_LABELS = 2_000_000
"""Samples times labels that it is fitted on at most: some minutes of a core."""
CHOICES = ((1, 1.0), (1, 3.0), (1, 10.0), (1, 30.0), (3, 3.0), (3, 10.0))
"""(longest run of tokens that is a word, inverse strength of the penalty); the validation side chooses. Runs tell
languages and words apart that the tokenizer spells by letters; of few samples in its own language they add noise."""
RUN = 1 << 20
"""A run of tokens is a number in this base, the last token first; no vocabulary is larger."""
ITERATIONS = 200
NEVER = -30.0
"""Bias of a label that training has no sample of."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """`tokens` [tokens] are the tokens and runs of up to `longest` tokens that training saw, in ascending order, `idf`
    [tokens] how rare each is. `words` [tokens, labels], `body` [dimension, labels] and `bias` [labels] are the
    regression; `pooling` says how the body's vectors of tokens become one."""

    tokens: "npt.NDArray[np.int64]"
    idf: "npt.NDArray[np.float32]"
    words: "npt.NDArray[np.float32]"
    body: "npt.NDArray[np.float32]"
    bias: "npt.NDArray[np.float32]"
    longest: int
    pooling: str

    def logits(self, ids: "Ids", vectors: "Vectors") -> "Numbers":
        """[texts, labels] from the token ids of each text and the body's vectors [texts, dimension] of length one."""
        import numpy as np

        said = _tfidf(ids, self.tokens, self.idf, self.longest) @ self.words
        logits: Numbers = np.asarray(said + vectors @ self.body + self.bias, np.float64)
        return logits

    @property
    def size(self) -> int:
        """How many parameters were fitted."""
        return int(self.words.size + self.body.size + self.bias.size)

    def save(self, folder: Path) -> None:
        """Write it beside the weights of its body."""
        from safetensors.numpy import save_file

        parts = {name: getattr(self, name).copy(order="C") for name in PARTS}
        save_file(parts, folder / FILE, {"pooling": self.pooling, "longest": str(self.longest)})


def load_linear_head(folder: Path) -> LinearHead | None:
    """The one in a run's folder, if there is one."""
    if not (folder / FILE).is_file():
        return None
    from safetensors import safe_open

    with safe_open(folder / FILE, "numpy") as file:
        parts, stored = {name: file.get_tensor(name) for name in PARTS}, file.metadata()
    return LinearHead(**parts, longest=int(stored["longest"]), pooling=stored["pooling"])


@dataclass(frozen=True, slots=True)
class Samples:
    """One side of a dataset: token ids and vectors [samples, dimension] of its texts, and their labels: [samples] ids,
    or [samples, labels] of 0 and 1 where a sample may have several."""

    ids: "Ids"
    vectors: "Vectors"
    labels: "npt.NDArray[np.int64]"


def fit_linear_heads(train: Samples, count: int, pooling: str) -> Iterator[LinearHead]:
    """One head per choice, for `count` labels; of these all have a say that occur. Labels weigh the same, however many
    samples they have; where a sample may have several, each is told from its absence as often as it occurs, since more
    than a half then decides."""
    from scipy.sparse import csr_matrix, hstack

    for longest, penalty in CHOICES:
        tokens, idf = _vocabulary(train.ids, longest)
        features = hstack([_tfidf(train.ids, tokens, idf, longest), csr_matrix(train.vectors)]).tocsr()
        regress = _regress if train.labels.ndim == 1 else _regress_each
        weights, biases = regress(features, train.labels, count, penalty)
        yield LinearHead(tokens, idf, weights[: len(tokens)], weights[len(tokens) :], biases, longest, pooling)


def _regress(features: Any, labels: "npt.NDArray[np.int64]", count: int, penalty: float) -> "tuple[Vectors, Vectors]":
    """Weights [features, count] and biases [count] of one label among all."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=penalty, max_iter=ITERATIONS, class_weight="balanced").fit(features, labels)
    rows, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn has one row, which speaks for the second
        rows, bias = np.concatenate([-rows / 2, rows / 2]), np.concatenate([-bias / 2, bias / 2])
    weights, biases = np.zeros((rows.shape[1], count), np.float32), np.full(count, NEVER, np.float32)
    weights[:, fitted.classes_], biases[fitted.classes_] = rows.T, bias
    return weights, biases


def _regress_each(
    features: Any, labels: "npt.NDArray[np.int64]", count: int, penalty: float
) -> "tuple[Vectors, Vectors]":
    """Weights [features, count] and biases [count] of each label by itself."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    weights, biases = np.zeros((features.shape[1], count), np.float32), np.full(count, NEVER, np.float32)
    for place, column in enumerate(labels.T):
        if column.all():
            biases[place] = -NEVER
        elif column.any():
            fitted = LogisticRegression(C=penalty, max_iter=ITERATIONS).fit(features, column)
            weights[:, place], biases[place] = fitted.coef_[0], fitted.intercept_[0]
    return weights, biases


def body_vectors(model: Any, ids: Any, mask: Any, pooling: str) -> "Vectors":
    """[texts, dimension] float32 vectors of length one from token ids and mask, both [texts, longest]."""
    from soldiom_ray.models.pooling import pool

    hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    vectors: Vectors = pool(hidden, mask, pooling).cpu().numpy()
    return vectors


def _runs_of(row: "npt.NDArray[Any]", longest: int) -> "npt.NDArray[np.int64]":
    """The tokens of a text, and its runs of up to `longest` tokens, each as a number."""
    import numpy as np

    tokens = np.asarray(row, np.int64) + 1
    runs, all_runs = tokens, [tokens]
    for length in range(2, longest + 1):
        runs = runs[:-1] + tokens[length - 1 :] * RUN ** (length - 1)
        all_runs.append(runs)
    return np.concatenate(all_runs)


def _vocabulary(ids: "Ids", longest: int) -> "tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]":
    """The tokens of the texts, the runs that stand in two of them at least, and how rare each is."""
    import numpy as np

    each = [np.unique(_runs_of(row, longest)) for row in ids]
    tokens, counts = np.unique(np.concatenate(each), return_counts=True)
    used = (counts > 1) | (tokens <= RUN)
    idf = np.log((1 + len(each)) / (1 + counts[used])) + 1
    return tokens[used], idf.astype(np.float32)


def _tfidf(ids: "Ids", tokens: "npt.NDArray[np.int64]", idf: "npt.NDArray[np.float32]", longest: int) -> Any:
    """[texts, tokens] in SciPy's sparse form: logarithms of counts times `idf`, each row of length one."""
    import numpy as np
    from scipy.sparse import csr_matrix

    columns, values, starts = [np.empty(0, np.int64)], [np.empty(0)], [0]
    for row in ids:
        seen, counts = np.unique(_runs_of(row, longest), return_counts=True)
        places = np.searchsorted(tokens, seen).clip(max=len(tokens) - 1)
        known = tokens[places] == seen
        weighed = (1 + np.log(counts[known])) * idf[places[known]]
        columns.append(places[known])
        values.append(weighed / max(float(np.linalg.norm(weighed)), 1e-9))
        starts.append(starts[-1] + len(weighed))
    return csr_matrix((np.concatenate(values), np.concatenate(columns), starts), shape=(len(ids), len(tokens)))
