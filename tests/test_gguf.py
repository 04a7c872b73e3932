"""GGUF files as bases: what they hold comes out as a safetensors model, whole, once, with its tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from small_models import small_settings
from stand_in import HubRepository, StandIn

from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER, builtin_names
from soldiom_ray.errors import DamagedError, InputError
from soldiom_ray.models import smollm2
from soldiom_ray.models.load import load_model, model_folder

TINY = BUILTIN_FOLDER / "tiny"
SMOLLM2 = "builtin/smollm2-135m-instruct"
Type = gguf.GGMLQuantizationType


def write_gguf(path: Path, quantization: Type, architecture: str = "llama") -> Path:
    """`builtin/tiny` as a GGUF file, its matrices in this quantization."""
    model, _ = load_model(TINY, dtype="float32", device="cpu")
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("A small model")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        values = tensor.numpy()
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if projection in name:  # llama.cpp interleaves the two halves of a head's dimensions
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        stored = quantization if values.ndim > 1 else Type.F32
        data = values.astype(np.float16) if stored == Type.F16 else gguf.quants.quantize(values, stored)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=stored)
    return close(writer, path)


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    content = json.loads((TINY / "tokenizer.json").read_text())
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    special = {token["content"] for token in content["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template((TINY / "chat_template.jinja").read_text())


def with_tensor(source: Path, target: Path, name: str, data: Any, quantization: Type) -> Path:
    """A copy of a GGUF file with one tensor replaced."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        if tensor.name == name:
            writer.add_tensor(name, data, raw_dtype=quantization)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return close(writer, target)


def close(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("quantization", "divergence"), [(Type.F16, 1e-3), (Type.Q8_0, 0.01), (Type.Q5_0, 0.1), (Type.Q4_1, 0.2)]
)
def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path, quantization: Type, divergence: float) -> None:
    """The bound is on the mean Kullback-Leibler divergence of the next token, in nats."""
    import torch

    file = write_gguf(tmp_path / "small.gguf", quantization)
    settings = small_settings(tmp_path / "home")
    with model_folder(settings, None, str(file)) as folder:
        model, tokenizer = load_model(folder, dtype="float32", device="cpu")
        card = (folder / "README.md").read_text()
    original, original_tokenizer = load_model(TINY, dtype="float32", device="cpu")
    text = "def read_file(path):\n    with open(path) as file:\n        return file.read()\n"
    ids = original_tokenizer(text)["input_ids"]
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.chat_template == original_tokenizer.chat_template
    assert tokenizer.eos_token_id == original_tokenizer.eos_token_id
    with torch.no_grad():
        converted, expected = (torch.log_softmax(each(torch.tensor([ids])).logits, -1) for each in (model, original))
    assert float((expected.exp() * (expected - converted)).sum(-1).mean()) < divergence
    assert "apache-2.0" in card
    assert quantization.name in card
    with model_folder(settings, None, str(tmp_path)) as again:
        assert again == folder, "a folder's only GGUF file is the same model, converted once"


def test_k_quants_are_read_too(tmp_path: Path) -> None:
    """No Python code quantizes to these: blocks of random quants with small scales are as good."""
    file = write_gguf(tmp_path / "small.gguf", Type.Q8_0)
    random = np.random.default_rng(3)
    for quantization in (Type.Q4_K, Type.Q6_K):
        values, size = gguf.GGML_QUANT_SIZES[quantization]
        data = random.integers(0, 256, (768, 256 // values * size), dtype=np.uint8)
        for place in (0, 2) if quantization == Type.Q4_K else (size - 2,):
            data[:, place : place + 2] = np.full((768, 1), 1e-4, np.float16).view(np.uint8)
        mixed = with_tensor(file, tmp_path / f"{quantization.name}.gguf", "blk.0.ffn_up.weight", data, quantization)
        with model_folder(small_settings(tmp_path / "home"), None, str(mixed)) as folder:
            model, _ = load_model(folder, dtype="float32", device="cpu")
        weights = model.get_parameter("model.layers.0.mlp.up_proj.weight").detach().numpy()
        np.testing.assert_allclose(weights, gguf.quants.dequantize(data, quantization), rtol=0.01, atol=1e-6)


def test_files_that_cannot_be_a_base_are_named_with_the_remedy(tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "home")
    whole = write_gguf(tmp_path / "whole.gguf", Type.Q8_0)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:200_000])
    (tmp_path / "text.gguf").write_text("no model")
    shutil.copy(whole, tmp_path / "big-00001-of-00003.gguf")
    write_gguf(tmp_path / "strange.gguf", Type.Q8_0, architecture="rwkv7")
    for name, message in (
        ("cut", "cannot be read as a GGUF file"),
        ("text", "does not begin with the bytes GGUF"),
        ("big-00001-of-00003", "one part of a split GGUF file"),
        ("strange", "architecture"),
    ):
        file = str(tmp_path / f"{name}.gguf")
        with pytest.raises(InputError, match=message) as caught, model_folder(settings, None, file):
            pass
        assert caught.value.remedy
    several = r"holds 5 GGUF files: big-00001-of-00003\.gguf, cut"
    with pytest.raises(InputError, match=several), model_folder(settings, None, str(tmp_path)):
        pass
    assert not [path for path in (tmp_path / "home" / "models").iterdir() if path.is_dir()], "nothing half-converted"


def test_a_gguf_file_of_the_hub_is_chosen_by_name_or_taken_when_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    data = write_gguf(tmp_path / "small.gguf", Type.Q8_0).read_bytes()
    with StandIn() as hub:
        hub.add(
            HubRepository("team/alone", files={"model.Q8_0.gguf": data, "README.md": b"# A model"}),
            HubRepository("team/several", files={"model.Q8_0.gguf": data, "model.Q4_1.gguf": data}),
        )
        settings = small_settings(tmp_path / "home", HF_ENDPOINT=hub.url)
        with (
            pytest.raises(InputError, match="holds 2 GGUF files") as caught,
            model_folder(settings, None, "team/several"),
        ):
            pass
        assert "OWNER/NAME:FILE.gguf" in caught.value.remedy
        with (
            pytest.raises(InputError, match=r"GGUF files there: model\.Q4_1\.gguf, model\.Q8_0\.gguf"),
            model_folder(settings, None, "team/several:model.Q2_K.gguf"),
        ):
            pass
        with (
            model_folder(settings, None, "team/alone") as alone,
            model_folder(settings, None, "team/several:model.Q8_0.gguf") as chosen,
        ):
            assert alone == chosen
            assert load_model(alone)[0].config.vocab_size == 4096
    with model_folder(settings, None, "team/several:model.Q8_0.gguf") as cached:
        assert cached == chosen, "without the hub its cache is used"


@pytest.mark.long
def test_the_model_of_the_wheel_answers_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    settings = small_settings(tmp_path / "home")
    assert SMOLLM2 in builtin_names()
    with model_folder(settings, None, SMOLLM2) as folder:
        model, tokenizer = load_model(folder)
        card = (folder / "README.md").read_text()
    assert model.num_parameters() == 134_515_008
    assert "apache-2.0" in card
    assert "4 bits" in card
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    output = model.generate(inputs=torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(output[len(ids) :])
    monkeypatch.setattr(smollm2, "SMOLLM2_SHA256", "0" * 64)
    with pytest.raises(DamagedError, match="the known one 000"), model_folder(settings, None, SMOLLM2):
        pass
