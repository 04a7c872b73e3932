"""The main job from end to end, through its doors: the CLI, the API, `ray job submit`; and what may go wrong in it."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import ROOT, Home
from process_title import title_of
from small_models import small_context, small_dataset, small_run, small_settings

from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.domains.judge import Judge
from soldiom_ray.errors import InputError
from soldiom_ray.evaluate.judge import check_judge
from soldiom_ray.flow import reach_judge
from soldiom_ray.models.load import load_tokenizer
from soldiom_ray.settings import load_settings

ENDED = ("completed", "failed", "cancelled")


def recipe(sources: Path, **changes: Any) -> dict[str, Any]:
    """A small whole workflow; `changes` replace headings."""
    content: dict[str, Any] = {
        "name": "small",
        "collect": [{"source": "local", "path": str(sources)}],
        "prepare": {"split": {"by": "group", "test": 0, "test_groups": ["sources/peft"]}},
        "embed": {"max_passages": 60},
        "train": {
            "base_model": "builtin/tiny",
            "method": "lora",
            "sequence_length": 128,
            "batch_tokens": 1024,
            "max_tokens": 8192,
            "validations": 2,
            "validation_tokens": 4096,
        },
        "evaluate": {"max_tokens": 10000, "resamples": 200},
        "register": {},
        "deploy": {},
    }
    return content | changes


def write(folder: Path, content: dict[str, Any]) -> str:
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def wait(home: Home, job: str, until: tuple[str, ...] = ENDED, seconds: float = 240) -> dict[str, Any]:
    """Poll the API until the job has one of these states."""
    end = time.monotonic() + seconds
    shown: dict[str, Any] = {}
    while time.monotonic() < end:
        shown = home.call("GET", f"/api/training/jobs/{job}").json()
        if shown["status"] in until:
            return shown
        time.sleep(0.5)
    pytest.fail(f"job is {shown}")


def wait_for_job(home: Home, name: str, seconds: float = 60) -> str:
    """The id of the job with this name, once it was submitted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for job in home.call("GET", "/api/training/jobs").json()["items"]:
            if job["name"] == name:
                return str(job["id"])
        time.sleep(0.2)
    pytest.fail(f"no job is named {name}")


def wait_for_training(home: Home, job: str, share: float, seconds: float = 200) -> None:
    """Poll the API until so much of the training is done, and the job still runs."""
    end = time.monotonic() + seconds
    shown: dict[str, Any] = {}
    while time.monotonic() < end:
        shown = home.call("GET", f"/api/training/jobs/{job}").json()
        assert shown["status"] not in ENDED, shown
        if any(stage["stage"] == "train" and (stage["progress"] or 0) > share for stage in shown["stages"]):
            return
        time.sleep(0.2)
    pytest.fail(f"job is {shown}")


@pytest.fixture(scope="module")
def finished(home: Home, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The workflow, run once."""
    path = write(tmp_path_factory.mktemp("recipes"), recipe(sources))
    done: dict[str, Any] = home.json("run", path)
    return done | {"path": path}


def test_status_shows_every_service_running(home: Home) -> None:
    services = home.json("status")["services"]
    assert {name: service["state"] for name, service in services.items()} == dict.fromkeys(
        ("postgres", "ray", "chroma", "mlflow", "api", "supervisor"), "running"
    )


def test_the_whole_workflow_ends_in_a_model_that_answers(home: Home, finished: dict[str, Any]) -> None:
    assert finished["status"] == "completed"
    stages = {stage["stage"]: stage for stage in finished["stages"]}
    assert list(stages) == ["collect", "prepare", "embed", "train", "evaluate", "register", "deploy"]
    assert all(stage["status"] == "completed" for stage in stages.values())
    metrics = finished["metrics"]
    assert metrics["base"]["loss"] > 0 and metrics["tuned"]["loss"] > 0
    interval = metrics["difference"]["loss"]
    assert interval["low"] <= interval["mean"] <= interval["high"]
    assert isinstance(metrics["gate"]["passed"], bool)
    assert finished["answer"]["output"]
    assert finished["answer"]["usage"]["completion_tokens"] > 0


def test_a_second_run_reuses_everything(home: Home, finished: dict[str, Any]) -> None:
    again = home.json("run", finished["path"])
    assert again["result"]["model_id"] == finished["result"]["model_id"]
    reused = {stage["stage"]: stage["reused"] for stage in again["stages"]}
    assert all(reused[stage] for stage in ("collect", "prepare", "embed", "train", "evaluate", "register"))


def test_search_answers_with_passages_and_their_sources(home: Home, finished: dict[str, Any]) -> None:
    only = home.json("search", "load a pretrained adapter", "--filter", "source=local", "--filter", "language=python")
    assert only["items"] and {item["metadata"]["language"] for item in only["items"]} == {"python"}
    assert home.json("search", "load a pretrained adapter", "--filter", "license=WTFPL")["items"] == []
    assert "known:" in home.run("search", "x", "--filter", "colour=red", code=2).stderr
    items = home.json("search", "load a pretrained adapter")["items"]
    assert items and all(item["text"] and item["metadata"]["path"] for item in items)
    assert [item["score"] for item in items] == sorted((item["score"] for item in items), reverse=True)


def test_the_model_card_names_data_licences_and_scores(home: Home, finished: dict[str, Any]) -> None:
    card = home.run("models", "card", finished["result"]["model_id"]).stdout
    assert "builtin/tiny" in card and "peft" in card and finished["result"]["dataset"] in card


def test_every_dropped_document_is_accounted_for(home: Home, finished: dict[str, Any]) -> None:
    dataset = finished["result"]["dataset"]
    counts = home.json("dataset", "show", dataset)["counts"]
    dropped = home.json("dataset", "dropped", dataset)["items"]
    assert counts["documents"] == counts["kept"] + len(dropped)
    assert all(drop["reason"] for drop in dropped)


def test_ray_job_submit_runs_the_same_recipe(home: Home, finished: dict[str, Any]) -> None:
    variables = home.json("env")
    ray = str(Path(sys.executable).with_name("ray"))
    command = [
        ray,
        "job",
        "submit",
        "--working-dir",
        str(ROOT),
        "--",
        sys.executable,
        "jobs/workflow.py",
        finished["path"],
    ]
    done = subprocess.run(command, env=home.environ | variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    listed = home.json("jobs", "list")["items"]
    assert listed[0]["kind"] == "workflow" and listed[0]["status"] == "completed"


def test_ray_refuses_whoever_has_no_token(home: Home) -> None:
    import httpx

    url = json.loads((home.folder / "run" / "addresses.json").read_text())["dashboard"]
    assert httpx.get(f"{url}/api/jobs/", trust_env=False).status_code == 401


@pytest.fixture(scope="module")
def train_by_api(home: Home, finished: dict[str, Any]) -> Callable[[str], str]:
    """By method: the id of a training job that was submitted once."""

    @functools.cache
    def submit(method: str) -> str:
        body = {
            "name": f"by-{method}",
            "base_model": "builtin/tiny",
            "training_method": method,
            "dataset_id": finished["result"]["dataset"],
            "config": {"sequence_length": 128, "batch_tokens": 1024, "max_tokens": 4096, "validations": 1},
        }
        key = {"Idempotency-Key": f"once-{method}"}
        answer = home.call("POST", "/api/training/jobs", json=body, headers=key)
        assert answer.status_code == 202, answer.text
        job = str(answer.json()["id"])
        assert answer.headers["location"] == f"/api/training/jobs/{job}"
        assert home.call("POST", "/api/training/jobs", json=body, headers=key).json()["id"] == job
        return job

    return submit


@pytest.mark.parametrize("method", ["prompt", pytest.param("full", marks=pytest.mark.endurance)])
def test_the_api_trains_on_a_dataset_with_other_methods_too(
    home: Home, train_by_api: Callable[[str], str], method: str
) -> None:
    job = train_by_api(method)
    ended = wait(home, job)
    assert ended["status"] == "completed", ended
    assert ended["training_method"] == method and ended["completed_at"]
    assert home.call("GET", f"/api/training/jobs/{job}/metrics").json()
    assert home.call("GET", f"/api/training/jobs/{job}/logs").status_code == 200


def test_the_api_deploys_a_model_and_deletes_it_only_when_it_is_taken_away(
    home: Home, train_by_api: Callable[[str], str]
) -> None:
    model = wait(home, train_by_api("prompt"))["result"]["model_id"]
    assert home.call("POST", f"/api/inference/{model}", json={"input": "import "}).status_code == 409
    deployed = home.call("POST", f"/api/models/{model}/deploy", json={})
    assert deployed.status_code == 202, deployed.text
    assert wait(home, deployed.json()["id"])["status"] == "completed"
    answer = home.call("POST", f"/api/inference/{model}", json={"input": "import ", "parameters": {"max_tokens": 8}})
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0
    assert home.call("DELETE", f"/api/models/{model}").status_code == 409
    home.run("undeploy", model)
    assert home.call("DELETE", f"/api/models/{model}").status_code == 204


def test_streams_and_batches_answer_through_the_api(home: Home, finished: dict[str, Any]) -> None:
    model = finished["result"]["model_id"]
    parameters = {"max_tokens": 12, "temperature": 0.0}
    whole = home.call("POST", f"/api/inference/{model}", json={"input": "def add(a, b):", "parameters": parameters})
    streamed = home.call(
        "POST", f"/api/inference/{model}", json={"input": "def add(a, b):", "parameters": parameters, "stream": True}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[5:]) for line in streamed.text.splitlines() if line.startswith("data:") and "{" in line]
    assert "".join(event.get("text", "") for event in events) == whole.json()["output"]
    batch = home.call(
        "POST",
        f"/api/inference/{model}/batch",
        json={"inputs": ["def add(a, b):", "import os"], "parameters": parameters},
    )
    assert batch.status_code == 200 and len(batch.json()["outputs"]) == 2


def test_a_sequence_to_sequence_model_answers_one_input_and_by_a_job_many(home: Home, tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    context = small_context(load_settings(home.environ))
    tokenizer = load_tokenizer(BUILTIN_FOLDER / "tiny")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    dataset = small_dataset(context, {"train": {"alpha": 1}})
    task = {"task": "seq2seq_lm", "auto_class": "AutoModelForSeq2SeqLM"}
    run = small_run(context, dataset, tmp_path, None, **task).id
    with open_session(context.settings) as session:
        row = models.create(session, family="fine-tuned", name="writer", run_artifact=run, lineage=task)
        model = row.id
    home.run("deploy", model)
    parameters = {"max_tokens": 4}
    one = home.call("POST", f"/api/inference/{model}", json={"input": "def add", "parameters": parameters})
    assert one.status_code == 200 and one.json()["usage"]["completion_tokens"] <= 4, one.text
    inputs = ["def add", *(f"import os{number}" for number in range(70)), " "]
    path = f"/api/inference/{model}/batch"
    sent = home.call("POST", path, json={"inputs": inputs, "parameters": parameters})
    assert sent.status_code == 202, sent.text
    assert wait(home, sent.json()["id"])["status"] == "completed"
    batch = home.call("GET", sent.json()["url"]).json()
    lines = [json.loads(line) for line in home.call("GET", batch["result"]).text.splitlines()]
    assert [line["input"] for line in lines] == inputs and lines[0]["output"] == one.json()["output"]
    assert "empty" in lines[-1]["error"]["detail"] and batch["errors"] == 1
    (tmp_path / "inputs.txt").write_text("\n".join(inputs[:3]))
    answered = home.json("infer", model, "--file", str(tmp_path / "inputs.txt"), "--max-tokens", "4")
    written = Path(answered["path"]).read_text().splitlines()
    assert [json.loads(line)["output"] for line in written] == [line["output"] for line in lines[:3]]
    home.run("undeploy", model)


def test_a_model_that_is_served_here_may_judge_answers(home: Home, finished: dict[str, Any], tmp_path: Path) -> None:
    variables = {"SOLDIOM_JUDGE_URL": f"{home.api_url}/v1", "SOLDIOM_JUDGE_API_KEY": home.key}
    declared = Judge(model=finished["result"]["model_id"], criteria="The better one is right.", max_tokens=8, ratings=0)
    check_judge(reach_judge(small_context(small_settings(tmp_path, **variables)), declared))
    wrong_key = small_settings(tmp_path, **variables | {"SOLDIOM_JUDGE_API_KEY": "no-key"})
    with pytest.raises(InputError, match="status 401"):
        check_judge(reach_judge(small_context(wrong_key), declared))


@pytest.mark.parametrize(("source", "body"), [("github", {"min_stars": 4000}), ("huggingface", {"kind": "models"})])
def test_open_sources_are_collected_through_the_api(home: Home, source: str, body: dict[str, Any]) -> None:
    answer = home.call("POST", f"/api/training/collect/{source}", json=body)
    assert answer.status_code == 202, answer.text
    ended = wait(home, answer.json()["id"])
    assert ended["status"] == "completed", ended
    details = ended["stages"][0]["details"]
    assert details["counts"]["documents"] > 0
    assert details.get("repositories", 2) == 2
    shown = home.call("GET", f"/api/datasets/{ended['result']['documents'][0]}")
    assert shown.status_code == 200 and shown.json()["source"] == source


def test_the_command_line_collects_from_github(home: Home) -> None:
    made = home.json("collect", "github", "--max-repositories", "1")
    assert made["repositories"] == 1 and made["documents"] > 0 and made["outcomes"]["collected"] == made["documents"]


def test_documents_sent_by_a_user_are_collected(home: Home) -> None:
    sent = home.call(
        "POST",
        "/api/training/collect/user-input",
        json={"user_id": "u1", "input_type": "text", "content": "A lease ends when its term has run out. " * 20},
    )
    assert sent.status_code == 201, sent.text
    uploaded = home.call(
        "POST",
        "/api/training/collect/user-input",
        data={"user_id": "u1"},
        files={"file": ("notes.txt", b"The tenant pays for repairs of the roof. " * 20, "text/plain")},
    )
    assert uploaded.status_code == 201, uploaded.text


def test_what_a_users_job_makes_is_that_users(home: Home) -> None:
    ann, ben = (home.json("keys", "create", "--role", "trainer", "--name", name) for name in ("ann", "ben"))
    text = {"user_id": "u2", "input_type": "text", "content": "What was agreed stays between the two of us. " * 20}
    sent = home.call("POST", "/api/training/collect/user-input", key=ann["key"], json=text).json()["id"]
    for key, status in ((ben["key"], 404), (ann["key"], 202)):
        started = home.call("POST", "/api/training/collect/files", key=key, json={"inputs": [sent]})
        assert started.status_code == status, started.text
    made = wait(home, started.json()["id"])
    assert made["status"] == "completed" and made["owner"] == ann["user"], made
    documents = f"/api/datasets/{made['result']['documents'][0]}"
    assert home.call("GET", documents, key=ann["key"]).json()["owner"] == ann["user"]
    assert home.call("GET", documents, key=ben["key"]).status_code == 404
    home.json("dataset", "share", documents.rpartition("/")[2])
    assert home.call("GET", documents, key=ben["key"]).json()["shared"] is True


def test_a_cancelled_job_ends_keeps_its_checkpoint_and_goes_on_later(
    home: Home, sources: Path, finished: dict[str, Any], tmp_path: Path
) -> None:
    long = recipe(
        sources, name="long", train=recipe(sources)["train"] | {"max_tokens": 400_000, "epochs": 50, "validations": 40}
    )
    del long["deploy"]
    body = {"name": "long", "base_model": "builtin/tiny", "training_method": "lora", "recipe": long}
    job = home.call("POST", "/api/training/jobs", json=body).json()["id"]
    wait_for_training(home, job, 0.08)
    assert home.call("DELETE", f"/api/training/jobs/{job}").status_code == 202
    assert wait(home, job, seconds=60)["status"] == "cancelled"
    assert home.call("DELETE", f"/api/training/jobs/{job}").status_code == 409
    kept = [path for path in (home.folder / "storage" / "run").rglob("checkpoints/*") if path.is_dir()]
    assert kept
    time.sleep(3)
    assert not [p for p in processes(home) if job in title_of(p)]


def test_a_job_whose_process_is_killed_is_seen_and_the_next_run_goes_on(
    home: Home, sources: Path, tmp_path: Path
) -> None:
    content = recipe(sources, name="killed", embed={"max_passages": 20})
    del content["evaluate"], content["register"], content["deploy"]
    content["train"] = content["train"] | {"max_tokens": 150_000, "epochs": 50, "validations": 40, "seed": 5}
    path = write(tmp_path, content)
    running = subprocess.Popen(
        [str(Path(sys.executable).with_name("soldiom")), "run", path, "--json"],
        env=home.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    job = wait_for_job(home, "killed")
    wait_for_training(home, job, 0.1)
    driver = next(
        p
        for p in processes(home)
        if title_of(p).endswith(f" soldiom_ray.flow {job}") and not title_of(p).startswith("/bin/sh")
    )
    os.kill(driver.pid, signal.SIGKILL)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 1 and "SIGKILL" in err and "start the same job again" in err
    again = home.json("run", path)
    reused = {stage["stage"]: stage["reused"] for stage in again["stages"]}
    assert reused["collect"] and reused["prepare"] and reused["embed"] and not reused["train"]
    assert again["status"] == "completed"


def test_an_unknown_base_model_is_refused_by_name(home: Home, finished: dict[str, Any], tmp_path: Path) -> None:
    done = home.run("train", "--base", "builtin/huge", "--data", finished["result"]["dataset"], code=None)
    assert done.returncode in (1, 2) and "builtin/huge" in done.stderr and "Traceback" not in done.stderr


def test_an_empty_folder_is_a_clear_error(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = home.run("collect", "local", str(tmp_path / "empty"), code=2)
    assert "empty" in done.stderr and "Traceback" not in done.stderr


def test_what_ended_a_job_is_the_same_to_the_api_the_command_line_and_its_log(home: Home, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = home.run("collect", "local", str(tmp_path / "nothing"), code=2)
    job = home.json("jobs", "list")["items"][0]
    shown = home.call("GET", f"/api/training/jobs/{job['id']}").json()
    problem = shown["problem"]
    assert (problem["type"], problem["status"]) == ("urn:soldiom:problem:invalid-input", 422)
    assert job["problem"] == problem and shown["error"].startswith(problem["detail"])
    assert f"Job {job['id']} failed: {problem['detail']}" in done.stderr
    assert f"Remedy: {problem['remedy']}" in done.stderr
    assert "Invalid input: " in home.run("jobs", "show", job["id"]).stdout
    log = home.run("jobs", "logs", job["id"]).stdout
    assert "error    job failed  type=InputError" in log and f"    Remedy: {problem['remedy']}" in log
    lines = [line for line in home.json("jobs", "logs", job["id"])["logs"].splitlines() if line.startswith("{")]
    assert {"job failed", "job ended"} <= {json.loads(line)["message"] for line in lines}


def test_a_wrong_key_is_refused(home: Home) -> None:
    for key in ("", "sld_wrong"):
        answer = home.call("GET", "/api/models", key=key)
        assert answer.status_code == 401
        assert answer.headers["content-type"].startswith("application/problem+json")


def test_a_key_of_another_tenant_sees_nothing(home: Home, finished: dict[str, Any]) -> None:
    other = home.json("keys", "create", "--role", "trainer", "--tenant", "other")["key"]
    assert home.call("GET", "/api/models", key=other).json()["items"] == []
    assert home.call("GET", f"/api/training/jobs/{finished['id']}", key=other).status_code == 404
    assert (
        home.call(
            "POST", f"/api/inference/{finished['result']['model_id']}", key=other, json={"input": "x"}
        ).status_code
        == 404
    )


def test_the_api_process_holds_no_torch(home: Home) -> None:
    holders = [p for p in processes(home) if "ServeReplica:api" in title_of(p)]
    assert holders
    for process in holders:
        assert not any("libtorch" in mapped.path for mapped in process.memory_maps())


def processes(home: Home) -> list[psutil.Process]:
    """Processes that belong to this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SOLDIOM_HOME") == str(home.folder):
                found.append(process)
        except psutil.Error:
            continue
    return found
