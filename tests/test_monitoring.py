"""What Prometheus reads: the API's own counts after requests, and the alert rules, judged by Prometheus itself."""

import json
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml
from conftest import ROOT, Home, free_port
from starlette.requests import Request

from soldiom_ray.api.auth import Caller
from soldiom_ray.api.metrics import BUCKETS, RequestMetrics, device_seconds_text, drift_text, going_back_text
from soldiom_ray.api.routes import health
from soldiom_ray.settings import load_settings

RULES = ROOT / "cluster" / "prometheus" / "alerts.yml"


def exposed() -> str:
    """What Prometheus reads of the API of whoever runs the server."""
    stored = device_seconds_text({"workflow": 12.5}) + drift_text({"m1": True})
    return filled().text() + stored + going_back_text({"m1": datetime(2026, 11, 1, tzinfo=UTC), "m2": None})


def filled() -> RequestMetrics:
    metrics = RequestMetrics()
    metrics.observe("GET", "/api/models", 200, 0.02)
    metrics.observe("BREW", "/api/models", 405, 0.002)
    metrics.answered("m1", 3.0, [{"prompt_tokens": 5, "completion_tokens": 7}, {}, {"completion_tokens": 1}])
    metrics.began("m1", 0.3)
    metrics.rated("m1", "down")
    return metrics


def test_answers_are_counted_by_model_with_seconds_tokens_first_text_and_ratings() -> None:
    lines = filled().text().splitlines()
    for expected in (
        'soldiom_requests_total{method="other",route="/api/models",status="405"} 1',
        'soldiom_request_seconds_bucket{route="/api/models",le="0.005"} 1',
        'soldiom_request_seconds_count{route="/api/models"} 2',
        'soldiom_answer_seconds_bucket{model="m1",le="2.5"} 0',
        'soldiom_answer_seconds_bucket{model="m1",le="10.0"} 1',
        'soldiom_answer_seconds_sum{model="m1"} 3.000000',
        'soldiom_first_token_seconds_bucket{model="m1",le="0.5"} 1',
        'soldiom_tokens_total{model="m1",kind="prompt"} 5',
        'soldiom_tokens_total{model="m1",kind="completion"} 8',
        'soldiom_feedback_total{model="m1",rating="down"} 1',
    ):
        assert expected in lines
    counts = [int(line.split()[-1]) for line in lines if line.startswith("soldiom_answer_seconds_bucket")]
    assert counts == sorted(counts) and len(counts) == len(BUCKETS) + 1


def test_an_admin_of_one_tenant_sees_no_model_of_another(tmp_path: Path) -> None:
    metrics = filled()
    nowhere = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    app = SimpleNamespace(state=SimpleNamespace(metrics=metrics, settings=nowhere))
    for tenant, sees_models in ((None, True), ("default", True), ("other", False)):
        state = {"caller": Caller("k", "k", "admin", tenant, "k")} if tenant else {}
        shown = health.metrics(Request({"type": "http", "app": app, "state": state})).body.decode()
        assert ("m1" in shown) is sees_models and "soldiom_requests_total" in shown


def test_the_alert_rules_ask_for_metrics_that_the_api_has() -> None:
    known = set(re.findall(r"# TYPE (\w+)", exposed()))
    asked = set(re.findall(r"soldiom_\w+", RULES.read_text()))
    assert asked and {re.sub("_(bucket|sum|count)$", "", name) for name in asked} <= known


def test_the_page_of_grafana_asks_for_counts_that_there_are() -> None:
    page = json.loads((ROOT / "cluster/grafana/soldiom.json").read_text())
    asked = " ".join(target["expr"] for panel in page["panels"] for target in panel["targets"])
    lines = exposed()
    for name, labels in re.findall(r"(soldiom_\w+)(?:\{(\w+)=)?", asked):
        assert re.search(rf"^{name}\{{.*{labels or ''}", lines, re.MULTILINE), (name, labels)
    for label in {label for group in re.findall(r"by \(([^)]*)\)", asked) for label in group.split(", ")}:
        assert f'{label}="' in lines, label


def test_promtool_finds_nothing_wrong_with_the_metrics_and_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    checked = subprocess.run([promtool, "check", "metrics"], input=exposed(), capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    config = RULES.with_name("prometheus.yml")
    rules = subprocess.run([promtool, "check", "config", str(config)], capture_output=True, text=True)
    assert rules.returncode == 0, rules.stdout + rules.stderr
    model = {"series": 'soldiom_feedback_total{model="m",rating="down"}', "values": "0+1x1440"}
    other = {"series": 'soldiom_feedback_total{model="m",rating="up"}', "values": "0+0.5x1440"}
    summary = "66.67% of a day's ratings of model m are down."
    alert = {"exp_labels": {"severity": "ticket", "model": "m"}, "exp_annotations": {"summary": summary}}
    case = {
        "interval": "1m",
        "input_series": [model, other],
        "alert_rule_test": [{"eval_time": "1d", "alertname": "UsersDissatisfied", "exp_alerts": [alert]}],
    }
    summary = "Version m went back by itself; `soldiom watch` says why, and which one answers."
    gone = {"exp_labels": {"severity": "ticket", "model": "m"}, "exp_annotations": {"summary": summary}}
    told = [{"eval_time": "2h", "exp_alerts": [gone]}, {"eval_time": "26h", "exp_alerts": []}]
    back = {
        "interval": "1m",
        "input_series": [{"series": 'soldiom_version_went_back_time_seconds{model="m"}', "values": "3600x1800"}],
        "alert_rule_test": [each | {"alertname": "VersionWentBack"} for each in told],
    }
    test = tmp_path / "test.json"  # JSON is YAML
    test.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [case, back]}))
    tried = subprocess.run([promtool, "test", "rules", str(test)], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_a_real_prometheus_reads_the_api_and_evaluates_every_rule(home: Home, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    config = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (tmp_path / "key").write_text(home.key)
    config["scrape_configs"][0] |= {
        "static_configs": [{"targets": [home.api_url.removeprefix("http://")]}],
        "authorization": {"credentials_file": str(tmp_path / "key")},
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    assert home.call("GET", "/api/models").status_code == 200
    address = f"127.0.0.1:{free_port()}"
    command = [prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'series'}"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log) as server,
        httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False) as client,
    ):

        def value(query: str) -> float:
            """Of the one series that a query answers; 0 while there is none."""
            try:
                found = client.get("/query", params={"query": query}).json()["data"]["result"]
            except (httpx.TransportError, ValueError, KeyError):  # it starts
                return 0
            return float(found[0]["value"][1]) if found else 0

        try:
            deadline = time.monotonic() + 60
            while not value('soldiom_requests_total{method="GET",route="/api/models",status="200"}'):
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.3)
            assert value('up{job="soldiom"}') == 1
            rules: list[dict[str, str]] = []
            while not rules or any(rule["health"] == "unknown" for rule in rules):
                assert time.monotonic() < deadline, rules
                groups = client.get("/rules").json()["data"]["groups"]
                rules = [rule for group in groups for rule in group["rules"]]
            assert {rule["name"]: rule["health"] for rule in rules} == {rule["name"]: "ok" for rule in rules}
        finally:
            server.terminate()
