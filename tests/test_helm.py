"""The Helm chart, by Helm's own library: it lints, renders valid Kubernetes objects for three sets of values, and refuses what would break."""

import hashlib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from config import parse

HELM = Path(__file__).parents[1] / "deploy" / "helm"
CHART = HELM / "sluice"
SETS = sorted(path.stem for path in (HELM / "values").glob("*.yaml"))
CUSTOM = {"ServiceMonitor"}
"""Kinds that Kubernetes itself does not know."""
ENVIRONMENT = {
    "SLUICE_ADMIN_KEY": "a" * 32,
    "SLUICE_PEPPER": "p" * 32,
    "REDIS_URL": "redis://redis:6379/0",
    "DATABASE_URL": "postgresql://sluice:x@postgres/sluice",
    "OPENAI_API_KEY": "sk-x",
    "ANTHROPIC_API_KEY": "sk-y",
}


def values_of(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((HELM / "values" / f"{name}.yaml").read_text())
    return values


def render(values: dict[str, Any], release: str = "sluice") -> dict[str, dict[str, Any]]:
    """Kind (and name, where a kind comes twice) -> object."""
    chart = helm_python.Chart.load(CHART)
    made = chart.render(values, name=release, namespace="ai")
    texts = [text for path, text in made.items() if path.endswith(".yaml")]
    objects = [o for text in texts for o in yaml.safe_load_all(text) if o is not None]
    named = {f"{o['kind']}/{o['metadata']['name']}": o for o in objects}
    assert len(named) == len(objects), "two objects of one name"
    return named


def one(objects: dict[str, dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [o for o in objects.values() if o["kind"] == kind]
    return found


def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    template: dict[str, Any] = one(objects, "StatefulSet")["spec"]["template"]
    return template


def test_there_are_three_sets_of_values() -> None:
    assert SETS == ["gitops", "minimal", "production"]


@pytest.mark.parametrize("name", SETS)
def test_helm_lint_finds_nothing(name: str) -> None:
    report = helm_python.lint(CHART, values_of(name), strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("name", SETS)
def test_every_object_is_valid_kubernetes(name: str) -> None:
    objects = render(values_of(name))
    for document in objects.values():
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", ["minimal", "production"])
def test_the_gateway_accepts_the_rendered_configuration(name: str) -> None:
    config = parse(one(render(values_of(name)), "ConfigMap")["data"]["sluice.yaml"], ENVIRONMENT)
    assert "fast" in config.models
    assert config.ledger.journal.startswith("/var/lib/sluice/")
    assert (config.redis is not None) == (name == "production")


@pytest.mark.parametrize("name", SETS)
def test_containers_are_neither_root_nor_able_to_write_their_image(name: str) -> None:
    spec = pod(render(values_of(name)))["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    container = spec["containers"][0]
    security = container["securityContext"]
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert security["capabilities"] == {"drop": ["ALL"]}
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/var/lib/sluice", "/tmp"}


@pytest.mark.parametrize("name", SETS)
def test_pods_drain_and_are_probed(name: str) -> None:
    values = values_of(name)
    spec = pod(render(values))["spec"]
    drain = values["config"].get("server", {}).get("drain", 120)
    assert spec["terminationGracePeriodSeconds"] == drain + 5 + 25
    container = spec["containers"][0]
    asked = {k: (v["httpGet"]["path"], v["httpGet"]["port"]) for k, v in container.items() if k.endswith("Probe")}
    assert asked == {
        "startupProbe": ("/healthz", "admin"),
        "livenessProbe": ("/healthz", "admin"),
        "readinessProbe": ("/readyz", "admin"),
    }


@pytest.mark.parametrize("name", SETS)
def test_secrets_come_by_reference_only(name: str) -> None:
    objects = render(values_of(name))
    assert not [o for o in objects.values() if o["kind"] == "Secret"]
    container = pod(objects)["spec"]["containers"][0]
    given = {e["name"] for e in container.get("env", ()) if "valueFrom" in e}
    if name == "gitops":
        assert given == {"SLUICE_ADMIN_KEY", "SLUICE_PEPPER", "OPENAI_API_KEY"}
        assert "ConfigMap" not in {o["kind"] for o in objects.values()}
        volumes = {v["name"]: v for v in pod(objects)["spec"]["volumes"]}
        assert volumes["config"]["configMap"]["name"] == "gateway-configuration"
    else:
        assert container["envFrom"] == [{"secretRef": {"name": "sluice"}}]


def test_production_scales_and_survives_node_drains_and_is_scraped() -> None:
    objects = render(values_of("production"), "gateway")
    scaler, set_ = one(objects, "HorizontalPodAutoscaler"), one(objects, "StatefulSet")
    assert scaler["spec"]["scaleTargetRef"]["name"] == set_["metadata"]["name"] == "gateway-sluice"
    assert "replicas" not in set_["spec"], "the autoscaler's business"
    labels = pod(objects)["metadata"]["labels"]
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        spec = one(objects, kind)["spec"]
        assert (spec.get("selector") or spec["podSelector"])["matchLabels"].items() <= labels.items()
    monitor = one(objects, "ServiceMonitor")
    admin = objects["Service/gateway-sluice-replicas"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == admin["spec"]["ports"][0]["name"]
    assert (
        not monitor["spec"]["selector"]["matchLabels"].items()
        <= objects["Service/gateway-sluice"]["metadata"]["labels"].items()
    ), "or every pod would be scraped twice"
    assert admin["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "sluice", "the alerts say job=sluice"


def test_a_changed_configuration_begins_new_pods_unless_told_not_to() -> None:
    def checksum(values: dict[str, Any]) -> str | None:
        given = pod(render(values))["metadata"].get("annotations", {}).get("checksum/config")
        assert given is None or len(given) == len(hashlib.sha256().hexdigest())
        return given

    values = values_of("minimal")
    before = checksum(values)
    values["config"]["retries"] = {"attempts": 4}
    assert before is not None
    assert checksum(values) not in (None, before)
    assert checksum({**values, "rollOnConfigChange": False}) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"replicaCount": 2}, "config.redis"),
        ({"autoscaling": {"enabled": True}}, "config.redis"),
        ({"replicaCount": 2, "config": {"redis": {"url": "${REDIS_URL}"}}}, "PostgreSQL"),
        ({"terminationGracePeriodSeconds": 60}, "terminationGracePeriodSeconds"),
        ({"replicas": 3}, "replicas"),
        ({"env": {"A": "secret in plain sight"}}, "env"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ],
)
def test_values_that_would_break_are_refused_with_their_name(change: dict[str, Any], told: str) -> None:
    chart = helm_python.Chart.load(CHART)
    with pytest.raises(helm_python.HelmError, match=told):
        chart.validate_schema(change)
        chart.render(change, name="sluice", namespace="ai")


def test_the_chart_s_version_is_the_product_s() -> None:
    import tomllib

    project = tomllib.loads((HELM.parents[1] / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == project["version"]
