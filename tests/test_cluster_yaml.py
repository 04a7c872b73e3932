"""ray-cluster.yaml against Ray's own schema, and what Ray's AWS provider makes of it on a local EC2."""

import copy
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from soldiom_ray.errors import UnavailableError

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


def test_ray_accepts_the_file_for_machines_one_has_whose_commands_are_the_same(declared: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    own = yaml.safe_load((ROOT / "cluster/ray-on-premises.yaml").read_text())
    prepared = prepare_config(copy.deepcopy(own))
    validate_config(prepared)
    [node_type] = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == len(own["provider"]["worker_ips"])
    for name in ("file_mounts", "rsync_exclude", "initialization_commands", "setup_commands"):
        assert own[name] == declared[name], name
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert own[name] == declared[name], name


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


def test_every_port_of_every_node_is_a_fixed_one(declared: dict[str, Any]) -> None:
    starts = [*declared["head_start_ray_commands"], *declared["worker_start_ray_commands"]]
    for command in [command for command in starts if "ray start" in command]:
        options = dict(re.findall(r"--([\w-]+)=(\d+)", command))
        ports = {
            "node-manager",
            "object-manager",
            "dashboard-agent-listen",
            "dashboard-agent-grpc",
            "runtime-env-agent",
        }
        ports |= {"metrics-export", "min-worker", "max-worker"} | (
            {"ray-client-server"} if "--head" in command else set()
        )
        numbers = [int(options[f"{name}-port"]) for name in sorted(ports)]
        assert all(20000 <= number < 21000 for number in numbers) and len(set(numbers)) == len(numbers)


def test_replicas_of_a_cluster_take_one_fixed_port_each_and_those_of_one_machine_any_of_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import grpc
    import ray.util
    from ray.serve._private import replica

    from soldiom_ray import compute

    bind = replica.add_port_to_grpc_server
    monkeypatch.setattr(replica, "add_port_to_grpc_server", bind)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.5")
    monkeypatch.setattr(compute, "REPLICA_PORTS", range(19970, 19972))
    compute.bind_replica_port()
    compute.bind_replica_port()  # as where one process holds two replicas
    with ThreadPoolExecutor() as pool:
        servers = [grpc.server(pool) for _ in range(3)]
        assert [replica.add_port_to_grpc_server(server, "[::]:0") for server in servers[:2]] == [19970, 19971]
        with pytest.raises(UnavailableError, match="No port from 19970 to 19971"):
            replica.add_port_to_grpc_server(servers[2], "[::]:0")
        monkeypatch.setattr(replica, "add_port_to_grpc_server", bind)
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
        compute.bind_replica_port()
        port = replica.add_port_to_grpc_server(servers[2], "[::]:0")
        assert port not in (0, 19970, 19971)
        listening = {each.laddr.ip for each in psutil.net_connections("tcp") if each.laddr.port == port}
        assert listening and {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
        for server in servers:
            server.start()
            server.stop(None)


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
