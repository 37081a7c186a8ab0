"""`cluster.yaml`: valid to Ray's own launcher, and what we want of it. Needs no cloud."""

import copy
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from spermseg.batch import pipeline
from spermseg.cli.segment import Segment
from spermseg.cli.train import Train

ROOT = Path(__file__).parents[1]
Config = dict[str, Any]
HOME = "/home/ubuntu"


def validated(config: Config) -> Config:
    """Return the configuration as `ray up` would use it, once Ray has accepted it."""
    prepared: Config = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def written() -> Config:
    config: Config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return config


@pytest.fixture(scope="module")
def config(written: Config) -> Config:
    return validated(written)


@pytest.fixture(scope="module")
def groups(config: Config) -> Config:
    """The groups of nodes: those that work, without the head."""
    return {name: node for name, node in config["available_node_types"].items() if name != config["head_node_type"]}


def head_of(config: Config) -> Config:
    head: Config = config["available_node_types"][config["head_node_type"]]
    return head


def rename_idle_timeout(config: Config) -> None:
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")


def misspell_setting_of_group(config: Config) -> None:
    config["available_node_types"]["gpu"]["max_worker"] = 1


def give_resources_as_text(config: Config) -> None:
    config["available_node_types"]["cpu"]["resources"]["CPU"] = "8"


def name_a_head_that_is_missing(config: Config) -> None:
    config["head_node_type"] = "haed"


def want_more_than_allowed(config: Config) -> None:
    config["available_node_types"]["cpu"]["min_workers"] = config["max_workers"] + 1


@pytest.mark.parametrize(
    "spoil",
    [
        rename_idle_timeout,
        misspell_setting_of_group,
        give_resources_as_text,
        name_a_head_that_is_missing,
        want_more_than_allowed,
    ],
)
def test_ray_accepts_it_but_not_with_a_mistake(written: Config, spoil: Callable[[Config], None]) -> None:
    validated(written)
    spoiled = copy.deepcopy(written)
    spoil(spoiled)
    with pytest.raises((ValueError, jsonschema.ValidationError)):
        validated(spoiled)


def test_the_head_runs_no_task_and_is_not_spot(config: Config) -> None:
    head = head_of(config)
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_gpu_nodes_are_spot_and_of_a_class_for_inference(groups: Config) -> None:
    on_gpu = [group for group in groups.values() if group["resources"].get("GPU")]
    assert on_gpu
    for group in on_gpu:
        assert group["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert re.match(r"g(4dn|5|6)\.", group["node_config"]["InstanceType"])


def test_every_group_starts_empty_may_grow_and_leaves_when_idle(config: Config, groups: Config) -> None:
    assert {node["min_workers"] for node in groups.values()} == {0}
    assert all(node["max_workers"] > 0 for node in groups.values())
    assert config["max_workers"] >= max(node["max_workers"] for node in groups.values())
    assert 0 < config["idle_timeout_minutes"] <= 15


def test_every_group_runs_the_stages_and_one_runs_the_gpu_stage(groups: Config) -> None:
    for node in groups.values():
        assert node["resources"]["CPU"] > pipeline.FETCH_CPUS + pipeline.SEGMENT_CPUS
    assert any(node["resources"].get("GPU", 0) >= 1 for node in groups.values())


def test_a_gpu_node_decodes_beside_its_network(groups: Config) -> None:
    threads = Segment(source="a", model="b", out="c").decode_threads
    on_gpu = [group["resources"] for group in groups.values() if group["resources"].get("GPU")]
    assert all(resources["CPU"] / resources["GPU"] > threads for resources in on_gpu)


def test_rights_come_from_instance_profiles_and_no_key_is_written_down(config: Config) -> None:
    for node in config["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"AKIA|ASIA|aws_access_key|aws_secret|SECRET", text)


def test_the_workers_have_another_profile_than_the_head_that_may_start_machines(config: Config, groups: Config) -> None:
    head = head_of(config)["node_config"]["IamInstanceProfile"]
    assert all(node["node_config"]["IamInstanceProfile"] != head for node in groups.values())


def test_disks_are_encrypted_and_go_with_their_node(config: Config) -> None:
    for node in config["available_node_types"].values():
        (disk,) = node["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"]
        assert disk["Ebs"]["DeleteOnTermination"]
    assert config["provider"]["cache_stopped_nodes"] is False


def test_no_node_starts_ray_without_the_token_and_the_dashboard_is_not_open(config: Config) -> None:
    assert f"{HOME}/.ray/auth_token" in config["file_mounts"]
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert any("export RAY_AUTH_MODE=token" in command for command in commands)
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])


def test_every_command_is_whole_to_a_shell(config: Config) -> None:
    kinds = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for command in {command for kind in kinds for command in config[kind]}:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_node_is_set_up_once_however_often_the_commands_run(config: Config, tmp_path: Path) -> None:
    (remember,) = (command for command in config["worker_setup_commands"] if ".bashrc" in command)
    (tmp_path / ".bashrc").touch()
    for _ in range(2):
        subprocess.run(["bash", "-c", remember], env={"HOME": str(tmp_path)}, check=True)
    (line,) = (tmp_path / ".bashrc").read_text().splitlines()
    assert line == "source ~/env/bin/activate; export RAY_AUTH_MODE=token"


def test_all_that_an_installation_needs_is_mounted_and_nothing_large(config: Config) -> None:
    mounts = {Path(far): near for far, near in config["file_mounts"].items() if not near.startswith("~")}
    assert all((ROOT / near).exists() for near in mounts.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], project["name"]}
    assert {far.relative_to(f"{HOME}/spermseg").as_posix() for far in mounts} == needed
    assert set(mounts.values()) == needed


def test_the_nodes_install_a_python_that_the_project_supports_with_the_pinned_versions(config: Config) -> None:
    setup = "\n".join(config["worker_setup_commands"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.13"
    assert re.search(r"--python 3\.1[12]\.\d+", setup)  # to the last figure: nodes that start later must match
    assert "--constraint ~/spermseg/constraints.txt ~/spermseg" in setup


def test_the_documented_jobs_fit_the_cluster(groups: Config) -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    gpus = sum(node["max_workers"] * node["resources"].get("GPU", 0) for node in groups.values())
    asked = [int(n) for n in re.findall(r"--gpu \w+ --workers (\d+)", guide)]
    assert asked
    assert max(asked) <= gpus
    assert {"workers", "gpu"} <= Segment.__dataclass_fields__.keys() & Train.__dataclass_fields__.keys()
