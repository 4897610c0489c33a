"""docker/ray-serve.yaml and docker/ray-service.yaml, read by what will read them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from helpers import ROOT

yaml = pytest.importorskip("yaml", reason="needs PyYAML: `make test-scale` runs these tests")
jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: `make test-scale` runs these tests")

CRD = (
    "https://raw.githubusercontent.com/ray-project/kuberay/v1.4.2/"
    "helm-chart/kuberay-operator/crds/ray.io_rayservices.yaml"
)


def service() -> Any:
    return yaml.safe_load((ROOT / "docker/ray-service.yaml").read_text())


def test_serve_takes_both_configurations_which_are_the_same() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs Ray: `make test-scale` runs these tests")
    for_serve = yaml.safe_load((ROOT / "docker/ray-serve.yaml").read_text())
    schema.ServeDeploySchema.model_validate(for_serve)
    assert yaml.safe_load(service()["spec"]["serveConfigV2"]) == for_serve
    from agegender.scale.serving import Arguments

    for application in for_serve["applications"]:
        assert application["args"] == Arguments(**application["args"]).model_dump()


def test_the_manifest_keeps_to_kuberays_published_schema() -> None:
    try:
        published = httpx.get(CRD, follow_redirects=True, timeout=20).raise_for_status().text
    except httpx.HTTPError:
        pytest.skip("KubeRay's schema cannot be reached from here")
    (version,) = [each for each in yaml.safe_load(published)["spec"]["versions"] if each["name"] == "v1"]
    manifest = service()
    jsonschema.validate(manifest, strict(version["schema"]["openAPIV3Schema"]))
    with pytest.raises(jsonschema.ValidationError):
        manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 3
        jsonschema.validate(manifest, strict(version["schema"]["openAPIV3Schema"]))


def strict(schema: Any) -> Any:
    """The same, but no field that it does not name is allowed, and integers may be strings where it says so."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(each) for name, each in schema.items()}
    if "properties" in made and made["properties"] and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", None):
        made.pop("type", None)
    return made
