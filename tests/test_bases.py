"""Bases that cannot be trained are refused from their files alone, with the thing, the value and the remedy; what one
only leaves out is set, and said."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import CONTEXT, small_base, small_context, small_dataset, small_settings

from soldiom_ray import launch
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.base_check import check_base, check_named_base
from soldiom_ray.models.load import load_model, model_folder
from soldiom_ray.models.planning.shape import shape_of
from soldiom_ray.models.positions import positions_of
from soldiom_ray.models.template_check import check_conversations
from soldiom_ray.train.driver import run_locally
from soldiom_ray.train.planning import plan_training
from soldiom_ray.train.work import prepare_work

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def edit(file: str, **values: Any) -> Change:
    """Set members of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        content = {key: value for key, value in (content | values).items() if value is not None}
        path.write_text(json.dumps(content))

    return change


def write(file: str, text: str) -> Change:
    return lambda folder: (folder / file).write_text(text) and None


def more_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    extra = {"id": 320, "content": "<|extra|>", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}  # fmt: skip
    content["added_tokens"] += [extra, extra | {"id": 321, "content": "<|more|>"}]
    path.write_text(json.dumps(content))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def shards(folder: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / names["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def adapter_only(folder: Path) -> None:
    (folder / "config.json").unlink()
    edit("adapter_config.json", base_model_name_or_path="team/base")(folder)


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def quantized_with_card(folder: Path) -> None:
    edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    (folder / "README.md").write_text("---\nbase_model:\n- team/original\nlicense: mit\n---\n")


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


BROKEN: dict[str, tuple[Change, str, str]] = {
    "more tokens than rows": (more_tokens, r"none for '<\|extra\|>' \(id 320\) and 1 more", "resize_token_embeddings"),
    "rows of another number": (edit("config.json", vocab_size=500), r"vocab_size 500.* 320 rows", "set vocab_size to"),
    "gptq": (quantized_with_card, r"quantized \(gptq\)", r"'team/original'.*nf4.*GGUF"),
    "awq": (edit("config.json", quantization_config={"quant_method": "awq"}), r"quantized \(awq\)", "unquantized"),
    "bitsandbytes": (edit("config.json", quantization_config={"load_in_4bit": True}), "bitsandbytes", "unquantized"),
    "fp8": (edit("config.json", quantization_config={"quant_method": "fp8"}), r"quantized \(fp8\)", "unquantized"),
    "a missing shard": (shards, r"lacks 1 of the 2 files .*model-00002-of-00002", "copy the missing"),
    "cut weights": (cut, r"model\.safetensors .* is cut short: [\d,]+ bytes", "again"),
    "no header": (write("model.safetensors", "x"), "no safetensors file", "again"),
    "a pointer of Git": (pointer, "only Git's pointer", "git lfs pull"),
    "pickled weights": (pickled, "only pickled weights", "convert it to safetensors"),
    "an empty tokenizer": (write("tokenizer.json", ""), r"tokenizer\.json .* is not JSON", "download"),
    "a damaged tokenizer": (write("tokenizer.json", '{"model": {}}'), r"tokenizer\.json .* is damaged", "copy it"),
    "no tokenizer": (without_tokenizer, "has no tokenizer", r"copy tokenizer\.json"),
    "an adapter beside": (edit("adapter_config.json", base_model_name_or_path="team/base"), "beside", "'team/base'"),
    "an adapter instead": (adapter_only, "an adapter, not weights", "'team/base'"),
    "config that is no JSON": (write("config.json", "{"), r"config\.json .* is not JSON", "download"),
    "an unknown architecture": (edit("config.json", model_type="mystery"), "model_type 'mystery'", "choose a model"),
    "no architecture": (edit("config.json", model_type=None), "names no model_type", "add `model_type`"),
    "code of its own": (
        edit("config.json", model_type="mystery", auto_map={"AutoModel": "modeling_x.Model"}),
        r"asks for code of its own \(auto_map\)",
        "transformers knows",
    ),
    "a template that does not compile": (
        write("chat_template.jinja", "{% for m in messages %}\n{{ m.content }"),
        r"chat_template\.jinja\) does not compile: line 2",
        "correct it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_base_that_cannot_be_trained_is_refused(case: str, copy: Path, tmp_path: Path) -> None:
    change, problem, remedy = BROKEN[case]
    change(copy)
    declared = Train(base_model=str(copy), sequence_length=32)
    with pytest.raises(InputError, match=problem) as caught:
        check_named_base(small_settings(tmp_path), None, declared)
    assert re.search(remedy, caught.value.remedy), caught.value.remedy


def test_the_doors_refuse_it_before_a_training_starts(copy: Path, tmp_path: Path) -> None:
    """Training before any worker starts, a plan, and the launch of a job, which the commands and the API call."""
    more_tokens(copy)
    context = small_context(small_settings(tmp_path / "home"))
    dataset = small_dataset(context, {"train": {"a": 2}, "validation": {"b": 1}})
    declared = Train(base_model=str(copy), sequence_length=32)
    started: list[bool] = []
    with pytest.raises(InputError, match="resize") as trained:
        prepare_work(context, dataset, declared, before_tokenising=lambda: started.append(True))
    assert not started
    with pytest.raises(InputError, match="resize") as planned:
        plan_training(context.settings, declared)
    recipe = validate_recipe({"name": "x", "dataset": "d", "train": {"base_model": str(copy)}}, "the test")
    with pytest.raises(InputError, match="resize") as launched:
        launch.check_base_folder(recipe)
    assert str(trained.value) == str(planned.value) == str(launched.value)
    assert launched.value.status == 422


def test_no_library_of_models_is_loaded_to_refuse_one(copy: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from soldiom_ray.domains.schema import Train;"
        " from soldiom_ray.models.base_check import check_base;"
        f" check_base(Path({str(copy)!r}), Train(base_model='x'));"
        " print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_what_a_base_leaves_out_is_set_and_said(copy: Path) -> None:
    declared = Train(base_model=str(copy), sequence_length=32)
    assert check_base(copy, declared) == []
    for stated in (None, 320, -400):
        edit("config.json", pad_token_id=stated)(copy)
        (note,) = check_base(copy, declared)
        assert "pad_token_id" in note and "is used" in note
        model, tokenizer = load_model(copy, dtype="float32", device="cpu")
        assert model.config.pad_token_id == tokenizer.pad_token_id is not None
        assert shape_of(copy, Train(base_model=str(copy), method="full")).sizes().parameters == model.num_parameters()


def test_positions_are_those_that_the_model_has(copy: Path) -> None:
    (note,) = check_base(copy, Train(base_model=str(copy), sequence_length=512))
    assert f"is lowered to {CONTEXT}" in note
    prompt = Train(base_model=str(copy), method="prompt", virtual_tokens=60)
    with pytest.raises(InputError, match="virtual_tokens 60 leave 4") as caught:
        check_base(copy, prompt)
    assert "at most 32" in caught.value.remedy
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert positions_of(roberta) == 512
    assert positions_of({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512
    assert positions_of({"model_type": "t5"}) is None


def test_a_model_that_counts_positions_from_its_padding_reads_texts_to_its_last_one(copy: Path, tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    _, tokenizer = load_model(copy, dtype="float32", device="cpu")
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=34, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(copy)
    context = small_context(small_settings(tmp_path / "home"))
    labels = json.dumps({"label": ["a", "b"]})
    dataset = small_dataset(context, {"train": {"a": 4}, "validation": {"b": 2}}, metadata=labels)
    declared = {"base_model": str(copy), "task": "text_classification", "multi_label": True, "method": "full"}
    run = run_locally(context, dataset, Train.model_validate(declared | {"batch_tokens": 64, "max_tokens": 256}))
    positions = 34 - 1 - tokenizer.pad_token_id
    assert run.details["sequence_length"] == positions
    edit("config.json", pad_token_id=(named := tokenizer.pad_token_id + 3))(copy)  # and the tokenizer pads with another
    run = run_locally(context, dataset, Train.model_validate(declared | {"batch_tokens": 64, "max_tokens": 256}))
    assert run.details["sequence_length"] == (positions := 34 - 1 - named)
    assert f"sequence_length 512 was lowered to the model's {positions}" in run.details["notice"]


def test_code_beside_a_class_of_transformers_is_neither_needed_nor_run(copy: Path, tmp_path: Path) -> None:
    edit("config.json", auto_map={"AutoModelForCausalLM": "modeling_x.Model"})(copy)
    edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.Own", None]})(copy)
    (copy / "modeling_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with model_folder(small_settings(tmp_path / "home"), None, str(copy)) as folder:
        model, tokenizer = load_model(folder)
    assert type(model).__module__.startswith("transformers.models.llama")
    assert tokenizer("def read(rows):")["input_ids"]
    assert not (tmp_path / "ran").exists()


STRICT = (
    "{% if messages and messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


def test_a_template_that_refuses_a_turn_of_the_dataset_names_it(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text(STRICT)
    fine = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    assert check_conversations(copy, "x", [fine]).as_dict() == {"conversations": 1}
    refused = [{"role": role, "content": "text of a user"} for role in ("assistant", "user", "assistant")]
    report = check_conversations(copy, "x", [fine, refused, refused])
    assert report.as_dict() == {"conversations": 3, "refused": 2, "inexpressible": 2}
    assert re.search(r"refuses turn 1 \(assistant\).*must alternate", str(report.refusal))
    assert report.refusal and "begin conversations" in report.refusal.remedy
    assert "text of a user" not in str(report.refusal)


@pytest.mark.parametrize(
    ("roles", "gap"),
    [
        (("system", "user", "assistant"), "system turns"),
        (("user", "user", "assistant"), "repeated user turns"),
        (("user", "assistant", "assistant"), "repeated answers"),
    ],
)
def test_what_a_template_refuses_and_can_be_folded_is_counted(roles: tuple[str, ...], gap: str, copy: Path) -> None:
    (copy / "chat_template.jinja").write_text(STRICT)
    report = check_conversations(copy, "x", [[{"role": role, "content": "text of a user"} for role in roles]])
    assert report.as_dict() == {"conversations": 1, "gaps": {gap: 1}, "inexpressible": 1} and not report.refusal
