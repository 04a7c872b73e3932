"""What kustomize makes of the folders below cluster/kubernetes, as far as they use it: resources, components, generated
ConfigMaps (without the hash in their names), JSON patches, images, replicas, namespace."""

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches", "images", "replicas",
}  # fmt: skip


def composed(folder: Path) -> list[Object]:
    """The objects of a folder with a kustomization."""
    return _with_namespace(_accumulated(folder, []), yaml.safe_load((folder / "kustomization.yaml").read_text()))


def _accumulated(folder: Path, objects: list[Object]) -> list[Object]:
    declared = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(declared) - KNOWN:
        raise ValueError(f"{folder}: {unknown} are not understood here")
    for name in declared.get("resources", ()):
        path = folder / name
        objects = [*objects, *(_accumulated(path, []) if path.is_dir() else list(yaml.safe_load_all(path.read_text())))]
    for generator in declared.get("configMapGenerator", ()):
        data = {name: (folder / name).read_text() for name in generator["files"]}
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        objects = [*objects, made]
    for name in declared.get("components", ()):
        objects = _accumulated(folder / name, objects)
    objects = copy.deepcopy(objects)
    for patch in declared.get("patches", ()):
        _apply(folder, patch, objects)
    for replicas in declared.get("replicas", ()):
        [target] = _matching(objects, {"name": replicas["name"]}, ("Deployment", "StatefulSet"))
        target["spec"]["replicas"] = replicas["count"]
    for image in declared.get("images", ()):
        _rename_images(objects, image)
    return objects


def _apply(folder: Path, patch: Object, objects: list[Object]) -> None:
    targets = _matching(objects, patch["target"], (patch["target"]["kind"],))
    if len(targets) != 1:
        raise ValueError(f"{folder}: {len(targets)} objects match {patch['target']}")
    for change in yaml.safe_load(patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()):
        *above, last = change["path"].strip("/").split("/")
        place: Any = targets[0]
        for step in above:
            place = place[int(step) if isinstance(place, list) else step]
        if isinstance(place, list) and last == "-":
            place.append(change["value"])
            continue
        key = int(last) if isinstance(place, list) else last
        if change["op"] != "add":
            place[key]  # KeyError where there is nothing to change
        if change["op"] == "remove":
            del place[key]
        else:
            place[key] = change["value"]


def _matching(objects: list[Object], target: Object, kinds: tuple[str, ...]) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds and each["metadata"]["name"] == target["name"]]


def _rename_images(value: Any, image: Object) -> None:
    if isinstance(value, list):
        for each in value:
            _rename_images(each, image)
    elif isinstance(value, dict):
        name, _, tag = str(value.get("image", "")).rpartition(":")
        if name == image["name"]:
            value["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
        for each in value.values():
            _rename_images(each, image)


def _with_namespace(objects: list[Object], declared: Object) -> list[Object]:
    for each in objects:
        if each["kind"] != "Namespace":
            each["metadata"]["namespace"] = declared["namespace"]
    return objects
