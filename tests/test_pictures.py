"""Pictures become samples: from arrays and folders, labelled by folders or tables, without what stands beside the
pixels, divided by a set's own names."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from preparing import context_in, document, documents_of

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.schema import Prepare, SplitRule
from soldiom_ray.domains.sources import FilesSource
from soldiom_ray.errors import InputError
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
DATA = Path(__file__).parents[2] / "shared" / "data"
PICTURES = ParseOptions(pictures=True)


def picture(number: int, form: str = "PNG", **options: Any) -> bytes:
    """A small picture that no other number gives."""
    sink = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(sink, form, **options)
    return sink.getvalue()


def arrays(path: Path, **members: Any) -> bytes:
    np.savez_compressed(path, **members)
    return path.read_bytes()


def paths_of(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(str(path) for path in folder.iterdir() if path.is_file()))


def prepared(context: Context, *paths: Path, **source: Any) -> tuple[Manifest, Manifest]:
    declared = FilesSource(paths=tuple(map(str, paths)), pictures=True, **source)
    documents = collect(context, [declared])
    return documents, prepare(context, [documents], Prepare(split=SplitRule(test=0, validation=0)))


def samples(context: Context, dataset: Manifest, split: str = "") -> list[dict[str, Any]]:
    folders = [f"{split}/"] if split else ["train/", "validation/", "test/"]
    rows = [row for folder in folders for row in context.artifacts.rows(dataset, folder)]
    return [row | {"about": json.loads(row["metadata"])} for row in rows]


def test_arrays_become_pictures_with_their_labels_and_sides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shades, colours = rng.integers(0, 255, (6, 8, 5), np.uint8), rng.integers(0, 255, (4, 8, 5, 3), np.uint8)
    arrays(
        tmp_path / "set.npz",
        train_images=shades,
        train_labels=np.arange(6).reshape(6, 1) % 2,
        val_images=colours,
        val_labels=np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]),
    )
    context = context_in(tmp_path / "home")
    _, dataset = prepared(context, tmp_path / "set.npz")
    train, validation = samples(context, dataset, "train"), samples(context, dataset, "validation")
    by_name = {row["group"].rpartition("#")[2]: np.asarray(Image.open(io.BytesIO(row["image"]))) for row in train}
    assert all((by_name[f"picture {index + 1} of train_images"] == shades[index]).all() for index in range(6))
    assert sorted(row["about"]["label"] for row in train) == ["0", "0", "0", "1", "1", "1"]
    assert sorted(row["about"]["label"] for row in validation) == [[], ["0"], ["0", "1", "2"], ["1", "2"]]
    assert all((row["text"], row["about"]["width"], row["about"]["height"]) == ("", 5, 8) for row in train + validation)
    assert dataset.counts["pictures"] == 10 and dataset.details["split"]["validation_by"] == "the set's own division"
    assert dataset.details["labels"]["2"] == {"validation": 2}
    card = context.artifacts.read(dataset, "card.md").decode()
    assert "10 samples are pictures" in card and "| 0 | 3 | 2 | 0 |" in card


def test_folders_and_tables_label_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for number, name in enumerate(("train/cat/a.png", "train/dog/b.png", "test/dog/c.png", "plain.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    (folder / "notes.txt").write_text("not a picture")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.png").write_bytes(picture(10 + number))
    rows = [f"{number}.png,{'ill' if number else 'well'},patient {number // 2},A chest.\n" for number in (0, 1, 2, 9)]
    (photos / "labels.csv").write_text("file_name,label,group,text\n" + "".join(rows))
    context = context_in(tmp_path / "home")
    documents, dataset = prepared(context, folder, photos)
    rows = {row["path"]: row for row in samples(context, dataset)}
    labels = {path: row["about"].get("label") for path, row in rows.items()}
    assert labels == {
        "pets/train/cat/a.png": "cat",
        "pets/train/dog/b.png": "dog",
        "pets/test/dog/c.png": "dog",
        "pets/plain.png": None,
        "photos/0.png": "well",
        "photos/1.png": "ill",
        "photos/2.png": "ill",
        "photos/3.png": None,
    }
    assert rows["pets/test/dog/c.png"]["split"] == "test"
    assert rows["photos/0.png"]["text"] == "A chest.\n"
    assert rows["photos/0.png"]["group"] == rows["photos/1.png"]["group"] != rows["photos/2.png"]["group"]
    outcomes = {
        name: documents.counts[f"outcome_{name}"] for name in ("picture_table", "missing_picture", "no_picture")
    }
    assert outcomes == {"picture_table": 1, "missing_picture": 1, "no_picture": 1}


def test_columns_of_a_table_of_pictures_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(picture(1))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"bild": "one.png", "befund": 3}) + "\n")
    context = context_in(tmp_path / "home")
    _, dataset = prepared(context, *map(Path, paths_of(tmp_path)), columns={"image": "bild", "label": "befund"})
    assert [row["about"]["label"] for row in samples(context, dataset)] == ["3"]
    wrong = collect(context, [FilesSource(paths=paths_of(tmp_path), pictures=True, columns={"label": "befnud"})])
    (drop,) = context.artifacts.rows(wrong, "dropped/")
    assert drop["reason"] == "wrong_columns" and "'befnud'; known: 'bild', 'befund'" in drop["value"]


def test_copies_of_a_picture_are_one_and_texts_beside_pictures_are_filtered_as_ever(tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / f"{name}.png").write_bytes(picture(number))
    context = context_in(tmp_path / "home")
    pictures = collect(context, [FilesSource(paths=(str(tmp_path),), exclude=("home/*",), pictures=True)])
    texts = documents_of(context, [document("too short\n", "t", "t.md"), document("word and more " * 40, "t", "u.md")])
    dataset = prepare(context, [pictures, texts], Prepare(split=SplitRule(test=0, validation=0)))
    dropped = {row["path"].rpartition("/")[2]: row for row in context.artifacts.rows(dataset, "dropped/")}
    assert {name: row["reason"] for name, row in dropped.items()} == {"b.png": "exact_duplicate", "t.md": "min_words"}
    assert dropped["b.png"]["value"].startswith("same picture as ")
    rows = {row["path"].rpartition("/")[2]: row["image"] for row in samples(context, dataset)}
    assert rows == {"a.png": picture(1), "c.png": picture(2), "u.md": None}


def test_a_dataset_without_pictures_has_no_column_for_them(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    documents = documents_of(context, [document("word and more " * 40, "t", "u.md")])
    dataset = prepare(context, [documents], Prepare(split=SplitRule(test=0, validation=0)))
    assert all("image" not in table.column_names for table in context.artifacts.tables(dataset, "train/"))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_keeps_its_pixels_and_loses_what_stands_beside_them(form: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x8825] = "Maker of cameras", {1: "N", 2: (52.0, 31.0, 0.0)}
    data = picture(3, form, exif=exif, **({"comment": b"at home"} if form == "JPEG" else {}))
    assert b"Maker" in data
    (parsed,) = parse_bytes(f"a.{form.lower()}", data, PICTURES)
    assert parsed.image is not None and b"Maker" not in parsed.image and b"at home" not in parsed.image
    assert (np.asarray(Image.open(io.BytesIO(parsed.image))) == np.asarray(Image.open(io.BytesIO(data)))).all()
    assert parsed.metadata == {"width": 7, "height": 9, "mode": "RGB", "format": form} and not parsed.text


def test_a_turned_photo_stands_upright_and_other_forms_become_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (turned,) = parse_bytes("a.jpg", picture(4, "JPEG", exif=exif), PICTURES)
    assert turned.image is not None and Image.open(io.BytesIO(turned.image)).size == (9, 7)
    assert (turned.metadata["width"], turned.metadata["format"]) == (9, "JPEG")
    for form in ("GIF", "WEBP", "BMP", "TIFF"):
        (other,) = parse_bytes(f"a.{form.lower()}", picture(5, form), PICTURES)
        assert other.image is not None and Image.open(io.BytesIO(other.image)).format == "PNG"


def test_images_are_read_for_their_words_unless_pictures_are_asked_for(tmp_path: Path) -> None:
    (parsed,) = parse_bytes("a.png", picture(1), ParseOptions(ocr=False))
    assert parsed.image is None and "dhash" in parsed.metadata
    with pytest.raises(SkippedError, match="unsupported"):
        parse_bytes("a.npz", arrays(tmp_path / "a.npz", images=np.zeros((2, 3, 3), np.uint8)))


def test_hostile_and_foreign_arrays_are_left_out_with_a_reason(tmp_path: Path) -> None:
    def refused(data: bytes) -> str:
        with pytest.raises(SkippedError) as raised:
            parse_bytes("a.npz", data, PICTURES)
        return f"{raised.value.reason}: {raised.value.detail}"

    pixels = np.zeros((2, 3, 3), np.uint8)
    pickled = np.array([print, print], dtype=object)
    assert refused(arrays(tmp_path / "a.npz", images=pixels, labels=pickled)).startswith("damaged")
    assert "weights float64 (4,)" in refused(arrays(tmp_path / "b.npz", weights=np.zeros(4)))
    content = arrays(tmp_path / "c.npz", images=pixels)
    np.savez(tmp_path / "d.npz", images=pixels)
    lying = (tmp_path / "d.npz").read_bytes().replace(b"(2, 3, 3)", b"(9, 3, 3)")
    assert refused(lying).startswith("damaged") and refused(content[: len(content) // 2]).startswith("damaged")


def test_a_folder_without_pictures_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("only words\n")
    with pytest.raises(InputError, match="no_picture"):
        collect(context_in(tmp_path / "home"), [FilesSource(paths=(str(tmp_path / "a.txt"),), pictures=True)])


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_the_chest_x_rays_become_a_dataset_without_their_copies(tmp_path: Path) -> None:
    folder = DATA / "medical_pneumoniamnist"
    context = context_in(tmp_path)
    documents = collect(context, [FilesSource(paths=(str(folder),), pictures=True)])
    dataset = prepare(context, [documents], Prepare())
    assert dataset.counts["documents"] == 3882 + 524 and dataset.counts["dropped_exact_duplicate"] == 25
    assert (
        set(dataset.details["labels"]) == {"0", "1"} and dataset.details["split"]["test_by"] != "the set's own division"
    )
    digests = [hash(row["image"]) for row in samples(context, dataset)]
    assert len(set(digests)) == len(digests) == dataset.counts["pictures"]
