"""ray-cluster.yaml against Ray's own schema, and what Ray's AWS provider makes of it on a local EC2."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "ray-cluster.yaml"
WORLD = {"0.0.0.0/0", "::/0"}


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def test_ray_accepts_the_cluster_file(declared: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(declared))
    validate_config(prepared)
    assert prepared["head_node_type"] == "head_cpu"


def test_the_head_has_no_gpu_and_workers_start_from_none(declared: dict[str, Any]) -> None:
    types = declared["available_node_types"]
    assert not types["head_cpu"]["node_config"]["InstanceType"].startswith(("g", "p"))
    assert types["worker_gpu"]["node_config"]["InstanceType"].startswith(("g", "p"))
    assert types["worker_gpu"]["min_workers"] == 0 < types["worker_gpu"]["max_workers"]


def test_every_start_command_asks_for_the_mounted_token(declared: dict[str, Any]) -> None:
    [token] = [remote for remote in declared["file_mounts"] if "token" in remote]
    assert any("chmod 600" in command for command in declared["setup_commands"])
    starts = [*declared["head_start_ray_commands"], *declared["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert all(f"RAY_AUTH_TOKEN_PATH={token}" in command for command in starts if "ray start" in command)
    assert "RAY_AUTH_MODE=token" in declared["initialization_commands"][0]
    [head] = [command for command in starts if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local EC2."""
    import boto3
    from moto import mock_aws

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("ec2", region_name="eu-central-1")


def test_rays_aws_provider_opens_no_port_to_the_world(declared: dict[str, Any], cloud: Any) -> None:
    from ray.autoscaler._private.aws.config import _configure_security_group, _configure_subnet
    from ray.autoscaler._private.util import prepare_config

    network = cloud.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = cloud.create_security_group(GroupName="soldiom", Description="nodes", VpcId=network)["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    cloud.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, inside])
    config = copy.deepcopy(declared)
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"]
        node["node_config"]["SecurityGroupIds"] = [group]

    prepared = _configure_security_group(_configure_subnet(prepare_config(config)))

    nodes = prepared["available_node_types"].values()
    assert {name for node in nodes for name in node["node_config"]["SecurityGroupIds"]} == {group}
    groups = cloud.describe_security_groups()["SecurityGroups"]
    rules = [rule for security_group in groups for rule in security_group["IpPermissions"]]
    assert not [rule for rule in rules for network in rule.get("IpRanges", []) if network["CidrIp"] in WORLD]
    assert not [rule for rule in rules for network in rule.get("Ipv6Ranges", []) if network["CidrIpv6"] in WORLD]
