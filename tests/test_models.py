"""Models: finding and refusing them, tokens, losses, generation."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import code, small_base, small_context, small_dataset, small_run, small_settings, tuned
from stand_in.hub import HubRepository
from stand_in.server import StandIn

from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.models.decoding.answers import REPLACEMENT, Options
from soldiom_ray.models.generate import Generator
from soldiom_ray.models.load import context_length, load_model, model_folder
from soldiom_ray.models.score import token_losses
from soldiom_ray.models.tokens import encode_documents, pack, terminator
from soldiom_ray.settings import NO_TOKEN

STORIES = Path(__file__).parents[2] / "shared" / "data" / "model_stories260k" / "hf"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return tuned(small_base(folder / "base"), folder / "tuned")


@pytest.fixture(scope="module")
def generator(base: Path) -> Generator:
    return Generator(*load_model(base, dtype="float32"))


@pytest.fixture(scope="module")
def prompt_tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from soldiom_ray.domains.schema import Train
    from soldiom_ray.train import methods
    from soldiom_ray.train.tasks import task_of

    folder = tmp_path_factory.mktemp("prompt")
    declared = Train(base_model=str(base), method="prompt", virtual_tokens=5)
    tokenizer = load_model(base)[1]
    task = task_of("causal_lm")
    model = methods.build(task, base, tokenizer, declared, {}, bfloat16=False, device="cpu", words=[3, 4])
    prompt, words = model.prompt_encoder["default"].embedding.weight, model.get_input_embeddings().weight
    assert prompt.tolist() == words[[3, 4, 3, 4, 3]].tolist()
    methods.save(model, tokenizer, folder, method="prompt", bfloat16=False)
    return folder


def test_an_unknown_base_model_names_what_was_tried(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(InputError, match="builtin/huge"), model_folder(settings, None, "builtin/huge"):
        pass
    with pytest.raises(InputError, match="cannot be a hub id"), model_folder(settings, None, "no such folder/x/y"):
        pass
    hub = model_folder(settings, None, "somebody/some-model")
    with pytest.raises(UnavailableError, match="the hub does not answer") as caught, hub:
        pass
    assert "somebody/some-model" in caught.value.what and "builtin/smollm2-135m-instruct" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modeling_x.py", "x = 1", "brings code"),  # beside an architecture that transformers does not know
        ("config.json", json.dumps({"model_type": "x", "auto_map": {"AutoModel": "x.y"}}), "auto_map"),
        ("config.json", "{", "is not JSON"),
    ],
)
def test_a_model_with_code_or_damage_is_refused(
    name: str, content: str, message: str, base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps({"model_type": "mystery"}))
    (tmp_path / "copy" / name).write_text(content)
    with pytest.raises(InputError, match=message), model_folder(small_settings(tmp_path), None, str(tmp_path / "copy")):
        pass


def test_pickled_weights_are_refused(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "copy" / "pytorch_model.bin")
    folder = model_folder(small_settings(tmp_path), None, str(tmp_path / "copy"))
    with pytest.raises(InputError, match="only pickled weights"), folder:
        pass


def test_documents_end_with_the_terminator_and_pack_into_blocks(base: Path) -> None:
    _, tokenizer = load_model(base)
    documents = list(encode_documents(tokenizer, [code(1), "", code(2)]))
    assert [int(ids[-1]) for ids in documents] == [terminator(tokenizer)] * 3
    blocks = pack(documents, 16)
    assert {len(block) for block in blocks[:-1]} == {16} and 2 <= len(blocks[-1]) <= 16
    joined = np.concatenate(blocks)
    assert joined.tolist() == np.concatenate(documents)[: len(joined)].tolist()
    assert tokenizer.decode(documents[0], skip_special_tokens=True) == code(1)


def test_token_losses_are_those_of_the_whole_logits(base: Path, prompt_tuned: Path) -> None:
    import torch

    for adapter in (None, prompt_tuned):
        model, tokenizer = load_model(base, adapter=adapter, dtype="float32")
        blocks = pack(encode_documents(tokenizer, [code(3), code(4)]), 40)
        scored = token_losses(model, blocks, batch_tokens=100)
        virtual = 5 if adapter else 0
        for block, result in zip(blocks, scored, strict=True):
            ids = torch.tensor(block.astype("int64"))[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, virtual:-1]
            expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            np.testing.assert_allclose(result.losses, expected.numpy(), atol=1e-4)
            assert result.correct.tolist() == (logits.argmax(-1) == ids[0, 1:]).tolist()


def test_of_equal_logits_the_first_is_the_likeliest() -> None:
    import torch

    from soldiom_ray.models.loss import _score_logits

    torch.manual_seed(2)
    logits = torch.randint(0, 5, (40, 30)).bfloat16()
    targets = torch.randint(0, 6, (40,))
    losses, correct = _score_logits(logits, targets)
    assert torch.equal(correct, logits.float().argmax(-1) == targets) and 0 < int(correct.sum()) < 40
    torch.testing.assert_close(losses, torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none"))


def test_what_blocks_begin_with_is_read_once_and_only_counted_tokens_are_scored(base: Path, prompt_tuned: Path) -> None:
    import torch

    read: list[int] = []
    for adapter in (None, prompt_tuned):
        model, _ = load_model(base, adapter=adapter, dtype="float32")
        random = np.random.default_rng(4)
        beginning = random.integers(3, 300, 12)
        blocks = [np.concatenate([beginning, random.integers(3, 300, size)]) for size in (3, 17, 17, 30, 41)]
        blocks.append(random.integers(3, 300, 20))
        masks = [np.arange(len(block)) >= len(block) // 2 for block in blocks[:-1]] + [np.zeros(20, np.bool_)]
        masks[0] = np.arange(15) >= 12
        plain = model.get_base_model() if adapter else model
        with torch.no_grad():
            scored = token_losses(model, blocks, masks)
            hook = plain.model.layers[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
            token_losses(model, blocks[3:4] * 8, masks[3:4] * 8, batch_tokens=1)
            hook.remove()
            assert read[-8:] == [21] * 8, "of 41 positions the 20 common ones are read once"
            for block, mask, result in zip(blocks, masks, scored, strict=True):
                ids = torch.tensor(block)[None]
                logits = model(input_ids=ids).logits[0, -len(block) : -1]
                expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy() * mask[1:]
                np.testing.assert_allclose(result.losses, expected, atol=1e-4)
                assert result.correct.tolist() == ((logits.argmax(-1) == ids[0, 1:]).numpy() & mask[1:]).tolist()


@pytest.mark.parametrize("ignored", [5, 30])
def test_the_chunked_loss_has_the_gradients_of_the_plain_one(ignored: int, base: Path) -> None:
    import torch

    from soldiom_ray.models.labels import IGNORE_INDEX
    from soldiom_ray.models.layers import causal_blocks
    from soldiom_ray.models.loss import CausalLoss

    model, _ = load_model(base, dtype="float32")
    ids = torch.randint(0, 300, (3, 33))
    labels = ids[:, 1:].clone()
    labels[: 1 + ignored // 10, :ignored] = IGNORE_INDEX
    loss = CausalLoss(model)
    assert loss.chunked
    with causal_blocks(model):
        total = loss(ids[:, :-1], labels)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(input_ids=ids[:, :-1]).logits
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    plain.backward()
    assert total.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=2e-4, rtol=2e-4)


def test_a_loss_over_some_positions_computes_few_numbers_of_rows() -> None:
    """Each number of rows is a kernel that oneDNN makes and keeps: 4 MB with a vocabulary of 49,152."""
    import torch

    from soldiom_ray.models.loss import ROW_STEP, _gathered

    hidden, labels = torch.randn(1000, 4), torch.arange(1000)
    numbers = set()
    for counted in range(0, 1001, 7):
        rows = torch.randperm(1000)[:counted]
        states, targets = _gathered(hidden, labels, rows)
        numbers.add(len(states))
        assert torch.equal(states[:counted], hidden[rows]) and torch.equal(targets[:counted], labels[rows])
    assert numbers == {*range(0, 1000, ROW_STEP), 1000}


def test_generation_equals_the_models_own(generator: Generator) -> None:
    import torch

    prompt = "def read_rows(rows):\n"
    (answer,) = generator.generate([prompt], max_new_tokens=20)
    ids = torch.tensor([generator.prompt_ids(prompt)])
    expected = generator.model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert answer.text == generator.tokenizer.decode(expected, skip_special_tokens=True)
    assert answer.prompt_tokens == ids.shape[1] and answer.completion_tokens == len(expected)


def test_a_prompts_answer_does_not_depend_on_its_batch(generator: Generator) -> None:
    prompts = ["def read_rows(rows):\n", "x", "    for item in words:\n        sort(item)\n"]
    options = {"max_new_tokens": 16, "temperature": 0.8, "top_p": 0.9, "seed": 5}
    together = generator.generate(prompts, **options)  # type: ignore[arg-type]
    alone = [generator.generate([prompt], **options)[0] for prompt in prompts]  # type: ignore[arg-type]
    assert [a.text for a in together] == [a.text for a in alone]
    assert together == generator.generate(prompts, **options)  # type: ignore[arg-type]


def test_a_stream_joins_to_the_whole_answer(generator: Generator) -> None:
    prompt = "def count_files(files):\n"
    (whole,) = generator.generate([prompt], max_new_tokens=24)
    assert "".join(generator.stream(prompt, max_new_tokens=24)) == whole.text
    stop = whole.text[6:10]
    (stopped,) = generator.generate([prompt], max_new_tokens=24, stop=[stop])
    assert stopped.finish_reason == "stop" and stop not in stopped.text and whole.text.startswith(stopped.text)
    assert "".join(generator.stream(prompt, max_new_tokens=24, stop=[stop])) == stopped.text


def test_a_stream_never_shows_half_a_character(generator: Generator) -> None:
    text = "prix: 5 €, 東京 🚀 fin"
    answer = generator.answer(generator.prompt_ids("x"), Options())
    pieces = []
    for token in generator.tokenizer(text)["input_ids"]:
        answer.add(token)
        pieces.append(answer.take())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces) and "🚀" in pieces


def test_bytes_that_never_become_a_character_are_shown_and_a_prompt_is_never_repeated(generator: Generator) -> None:
    tokens = generator.tokenizer("ab €")["input_ids"]
    answer = generator.answer(generator.prompt_ids(f"cut off: {REPLACEMENT}"), Options())
    for token in tokens[:-1]:
        answer.add(token)
    assert answer.take() == "ab "
    answer.end("length")
    assert answer.result().text == generator.tokenizer.decode(tokens[:-1]) != "ab "


def test_single_bytes_that_turn_out_to_be_no_character_do_not_end_the_answer() -> None:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    from soldiom_ray.models.decoding.answers import Detokenizer

    core = Tokenizer(BPE(vocab={"<0x41>": 0, "<0xE6>": 1, "b": 2}, merges=[], byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    detokenizer = Detokenizer(PreTrainedTokenizerFast(tokenizer_object=core), [2])
    text = "".join(detokenizer.add(token) for token in (0, 1, 2, 2)) + detokenizer.flush()
    assert text.startswith("A") and text.endswith("bb")


def test_a_prompt_longer_than_the_context_is_refused_and_a_long_answer_ends(generator: Generator) -> None:
    with pytest.raises(InputError, match="context is 64"):
        generator.generate(["word " * 100])
    (answer,) = generator.generate(["def read_rows(rows):\n"], max_new_tokens=500)
    assert answer.prompt_tokens + answer.completion_tokens <= 64


def test_a_prompt_tuned_model_generates_as_peft_does(base: Path, prompt_tuned: Path) -> None:
    import torch

    model, tokenizer = load_model(base, adapter=prompt_tuned, dtype="float32")
    generator = Generator(model, tokenizer)
    assert generator.context == context_length(model) == 59
    prompts = ["def read_rows(rows):\n", "def x"]
    for prompt, answer in zip(prompts, generator.generate(prompts, max_new_tokens=12), strict=True):
        ids = torch.tensor([generator.prompt_ids(prompt)])
        expected = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert answer.text == tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_conversation_becomes_a_prompt(generator: Generator) -> None:
    text = generator.chat([{"role": "user", "content": "hello"}])
    assert text.startswith("<|user|>\nhello") and text.endswith("<|assistant|>\n")


def test_a_foreign_model_writes_a_story() -> None:
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not here")
    generator = Generator(*load_model(STORIES))
    (answer,) = generator.generate(["Once upon a time"], max_new_tokens=40)
    assert "there was" in answer.text
    assert "".join(generator.stream("Once upon a time", max_new_tokens=40)) == answer.text


def test_models_that_are_loaded_at_once_leave_no_trace_in_each_other(tmp_path: Path) -> None:
    from transformers import PreTrainedModel

    ties = PreTrainedModel.tie_weights
    with model_folder(small_settings(tmp_path), None, "builtin/tiny") as folder, ThreadPoolExecutor(6) as pool:
        loaded = [model for model, _ in pool.map(lambda _: load_model(folder), range(24))]
    assert PreTrainedModel.tie_weights is ties
    for model in loaded:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert not any(weight.is_meta for weight in model.parameters())


def test_the_builtin_model_writes_python(tmp_path: Path) -> None:
    with model_folder(small_settings(tmp_path), None, "builtin/tiny") as folder:
        assert sum(path.stat().st_size for path in folder.iterdir()) < 16_000_000
        model, tokenizer = load_model(folder)
    ours = (Path(__file__).parents[1] / "soldiom_ray" / "storage.py").read_text()
    scored = token_losses(model, pack(encode_documents(tokenizer, [ours]), 512))
    assert np.concatenate([result.losses for result in scored]).mean() < 2.9
    (answer,) = Generator(model, tokenizer).generate(["class Stack:\n    def __init__(self, items):\n        self."])
    assert "items" in answer.text


def test_only_a_small_whole_model_comes_with_the_package(base: Path, tmp_path: Path) -> None:
    from soldiom_ray.models.package_model import count_packages, package_run

    context = small_context(small_settings(tmp_path))
    dataset = small_dataset(context, {"train": {"alpha": 2, "beta": 1}})
    adapter = small_run(context, dataset, base, base, method="lora")
    with pytest.raises(InputError, match="method lora"):
        package_run(context.artifacts, adapter.id, "never")
    packages = count_packages(context.artifacts.rows(dataset, "train/"), {"beta": "ISC"})
    assert [(p.name, p.license, p.files) for p in packages] == [("alpha", "MIT", 2), ("beta", "ISC", 1)]


def test_a_hub_model_is_downloaded_without_its_code(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    extra = {"weights.bin": b"pickle", "onnx/model.onnx": b"0"}
    mystery = json.dumps({"model_type": "mystery"}).encode()
    with StandIn() as hub:
        hub.add(
            HubRepository("team/small", files=files | extra),
            HubRepository("team/known", files=files | {"modeling_x.py": b"import os"}),
            HubRepository("team/coded", files=files | {"modeling_x.py": b"import os", "config.json": mystery}),
            HubRepository("team/gated", files=files, gated="manual"),
        )
        settings = small_settings(tmp_path, HF_ENDPOINT=hub.url)
        with model_folder(settings, None, "team/known") as folder:
            assert {path.name for path in folder.iterdir()} == set(files)
        with model_folder(settings, None, "team/small") as folder:
            assert {path.name for path in folder.iterdir()} == set(files)
            assert load_model(folder)[0].config.vocab_size == load_model(base)[0].config.vocab_size
        for name, message in (("coded", "brings code"), ("gated", "is gated"), ("absent", "Unknown base model")):
            with pytest.raises(InputError, match=message), model_folder(settings, None, f"team/{name}"):
                pass
    with model_folder(settings, None, "team/small") as again:
        assert load_model(again)[0].config.vocab_size > 0
    away = replace(settings, hf_endpoint="http://127.0.0.1:9")
    with model_folder(away, None, "team/small") as again:
        assert {path.name for path in again.iterdir()} == set(files)
    stranger = replace(away, hf_token=NO_TOKEN)  # a tenant that may not use what the home's token has opened
    with pytest.raises(UnavailableError, match="hub does not answer"), model_folder(stranger, None, "team/small"):
        pass
