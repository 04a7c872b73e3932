"""A registered model becomes one with smaller weights: the format, the engine's products, the stage, its scores."""

from pathlib import Path

import pytest
import torch

from soldiom_ray.artifacts import Context
from soldiom_ray.compress import compress
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.schema import Compress, Evaluate, Register
from soldiom_ray.errors import DamagedError, InputError
from soldiom_ray.evaluate import evaluate
from soldiom_ray.models.decoding.forward import ROWS
from soldiom_ray.models.export import export_model
from soldiom_ray.models.generate import Generator
from soldiom_ray.models.gguf_export import check_exportable, save_gguf
from soldiom_ray.models.load import load_base, load_model, load_run, model_folder
from soldiom_ray.models.quantization import (
    QuantizedProduct,
    check_quantizable,
    quantized,
)
from soldiom_ray.records import Manifest
from soldiom_ray.register.card import write_card
from soldiom_ray.register.versions import check_weights
from tests.small_models import code, small_base, small_context, small_dataset, small_run, small_settings, tuned

SPLITS = {"train": {"a": 4}, "validation": {"a": 1}, "test": {"b": 8, "c": 8}}
FORMATS = [("int8", 0.02), ("int4", 0.2), ("gguf", 0.02), ("gguf-q4", 0.2)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return small_context(small_settings(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def dataset(context: Context) -> Manifest:
    return small_dataset(context, SPLITS)


@pytest.fixture(scope="module")
def run(context: Context, dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("models")
    base = small_base(folder / "base")
    return small_run(context, dataset, tuned(base, folder / "tuned"), base)


def compressed(context: Context, run: Manifest, to: str) -> Manifest:
    return compress(context, run, Compress.model_validate({"to": to}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [8, 4])
def test_products_are_those_of_the_rounded_matrices_whatever_the_rows(bits: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = [(torch.randn(rows, 96) / 10).to(dtype) for rows in (64, 32)]
    parts = [quantized(each, bits) for each in weights]
    product = QuantizedProduct(parts, torch.ones(96, dtype=dtype), ROWS, {})
    many = product.few + 9
    x = torch.randn(many, 96).to(dtype)
    exact = x.float() @ torch.cat([each.dequantized() for each in parts]).float().T + 1
    near = 0.02 if dtype == torch.bfloat16 else 1e-4
    few = product(x[:ROWS])
    for rows, result in ((ROWS, few), (many, product(x))):
        assert (result.float() - exact[:rows]).abs().max() < near * exact.abs().max()
    assert all(torch.equal(product(x[:rows]), few[:rows]) for rows in (1, 2, 5, 31))


@pytest.mark.parametrize(("bits", "most"), [(8, 0.009), (4, 0.09)])
def test_what_rounding_loses_is_bounded(bits: int, most: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    error = (quantized(weight, bits).dequantized() - weight).norm() / weight.norm()
    assert error < most
    assert torch.equal(quantized(torch.zeros(16, 32), bits).dequantized(), torch.zeros(16, 32))


@pytest.mark.parametrize(("to", "loses"), FORMATS)
def test_a_compressed_run_is_signed_scored_against_what_it_was_made_of_and_says_so(
    context: Context, dataset: Manifest, run: Manifest, to: str, loses: float
) -> None:
    made = compressed(context, run, to)
    assert compressed(context, run, to).created_at == made.created_at
    told = made.details["compression"]
    assert told["to"] == to
    assert told["file_bytes"]["after"] < told["file_bytes"]["before"]
    assert made.details["base_model"] == run.id and made.parents == (dataset.id, run.id)
    scores = evaluate(context, made, dataset, Evaluate(max_tokens=2000, answers=0, examples=1))
    difference = scores.details["difference"]["loss"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert abs(difference["mean"]) < loses
    card = write_card("small", made, scores, dataset, Register(), None, [], "MIT", [])
    assert f"in {to}; nothing was trained" in card and "| weights in the file |" in card
    files = {entry.name for entry in made.files}
    wanted = {"model.gguf"} if to.startswith("gguf") else {"model.safetensors", "quantization.json"}
    assert {"weights.sig", *(f"weights/{name}" for name in wanted)} <= files
    assert ("tokens_per_second" in told) is not to.startswith("gguf")
    check_weights(made)


@pytest.mark.parametrize("to", [to for to, _ in FORMATS])
def test_trained_and_compressed_see_the_same_tokens_and_answer_alike(context: Context, run: Manifest, to: str) -> None:
    made, prompt = compressed(context, run, to), code(3)[:40]
    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        ids, vocabulary = tokenizer(prompt)["input_ids"], tokenizer.get_vocab()
        before = Generator.taking_over(model, tokenizer).generate([prompt], max_new_tokens=8)[0].text
    with load_run(context.artifacts, context.settings, made) as (model, tokenizer):
        assert tokenizer(prompt)["input_ids"] == ids and tokenizer.get_vocab() == vocabulary
        generator = Generator.taking_over(model, tokenizer)
        if not to.startswith("gguf"):
            assert isinstance(generator.forward.layers[0].qkv, QuantizedProduct)  # type: ignore[attr-defined]
        together = generator.generate([prompt] * 3, max_new_tokens=8)
        assert len({each.text for each in together}) == 1
        if to in ("int8", "gguf"):
            assert together[0].text == before


def test_an_adapter_is_merged_first(context: Context, dataset: Manifest, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = small_base(tmp_path / "base")
    with load_base(None, context.settings, str(base)) as (model, _):
        torch.manual_seed(5)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        adapted.save_pretrained(tmp_path / "adapter")
    run = small_run(context, dataset, tmp_path / "adapter", base, method="lora")
    made = compressed(context, run, "int8")
    scores = evaluate(context, made, dataset, Evaluate(max_tokens=1000, answers=0, examples=1))
    assert abs(scores.details["difference"]["loss"]["mean"]) < 0.05


def test_what_cannot_be_compressed_is_refused_with_a_reason(
    context: Context, dataset: Manifest, run: Manifest, tmp_path: Path
) -> None:
    made = compressed(context, run, "int8")
    with pytest.raises(InputError, match="compressed to int8 already"):
        compressed(context, made, "int4")
    with (
        pytest.raises(InputError, match="not trained further"),
        model_folder(context.settings, context.artifacts, made.id),
    ):
        pass
    for values, reason in (
        ({"task": "text_classification"}, "text_classification"),
        ({"method": "prompt"}, "tuned prompt"),
    ):
        other = run.model_copy(update={"details": {**run.details, **values}})
        with pytest.raises(InputError, match=reason):
            compressed(context, other, "int8")
    narrow = torch.nn.Module()
    narrow.layer = torch.nn.Linear(48, 16)
    narrow.get_input_embeddings = lambda: None  # type: ignore[assignment]
    with pytest.raises(InputError, match="layer is 16 x 48"):
        check_quantizable(narrow, 4)
    with pytest.raises(InputError, match="has 1 mistake"):
        validate_recipe({"name": "x", "run": run.id, "compress": {"to": "int3"}})
    with pytest.raises(InputError, match="has 1 mistake"):
        validate_recipe({"name": "x", "dataset": "d", "train": {}, "run": run.id, "compress": {"to": "int8"}})


def test_a_gguf_file_is_read_alone_as_others_read_it(context: Context, run: Manifest, tmp_path: Path) -> None:
    """By transformers' own reader of such files, from nothing but the file, as a base."""
    made = compressed(context, run, "gguf")
    written = export_model(
        context.settings,
        context.artifacts,
        made.id,
        tmp_path / "out" / "model",
        card="# Card",
        notices=["N"],
        materials={},
    )
    assert {"model.gguf", "README.md", "NOTICE", "config.json", "tokenizer.json"} <= written.keys()
    (tmp_path / "alone").mkdir()
    (tmp_path / "out" / "model" / "model.gguf").rename(tmp_path / "alone" / "other.gguf")
    text = "def f(x):\n\treturn 'naïve 12,345'  # 🙂"
    with (
        load_run(context.artifacts, context.settings, run) as (model, tokenizer),
        model_folder(context.settings, context.artifacts, str(tmp_path / "alone" / "other.gguf")) as folder,
    ):
        read, other = load_model(folder)
        assert other(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert other.chat_template == tokenizer.chat_template and other.eos_token_id == tokenizer.eos_token_id
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            exact, rounded = (torch.log_softmax(each(ids).logits.float(), -1) for each in (model, read))
        assert float((exact.exp() * (exact - rounded)).sum(-1).mean()) < 0.01
    with pytest.raises(InputError, match="not empty"):
        export_model(
            context.settings, context.artifacts, made.id, tmp_path / "alone", card="", notices=[], materials={}
        )


def test_a_tokenizer_or_a_model_that_gguf_cannot_say_is_refused(
    context: Context, run: Manifest, tmp_path: Path
) -> None:
    from tokenizers import Regex, pre_tokenizers

    with load_run(context.artifacts, context.settings, run) as (model, tokenizer):
        cut = pre_tokenizers.Split(Regex("x+"), "isolated")
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel()])
        with pytest.raises(InputError, match=r"BPE, Split, ByteLevel"):
            save_gguf(model, tokenizer, tmp_path, "gguf")
        model.config.sliding_window = 64
        with pytest.raises(InputError, match="llama with a sliding window"):
            check_exportable(model)
        model.config.rope_parameters = {"rope_type": "llama3", "rope_theta": 10000.0}
        with pytest.raises(InputError, match="llama with llama3 positions"):
            check_exportable(model)


def test_changed_weights_are_refused(context: Context, run: Manifest) -> None:
    made = compressed(context, run, "int4")
    path = context.settings.home / "storage" / "run" / made.id / "weights" / "quantization.json"
    before = path.read_text()
    path.write_text(before.replace("int4", "int8"))
    try:
        with (
            pytest.raises(DamagedError, match=r"quantization\.json"),
            load_run(context.artifacts, context.settings, made),
        ):
            pass
    finally:
        path.write_text(before)
