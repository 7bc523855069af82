"""What deploys the gateway: valid for the tools that read it, and true to the gateway it deploys."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyOptions

from benchmarks.contestants import IMAGE
from config import load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SECRETS = {"SLUICE_ADMIN_KEY": "a" * 32, "SLUICE_PEPPER": "p" * 32}
STORES = {"REDIS_URL": "redis://redis:6379/0", "DATABASE_URL": "postgresql://sluice:x@postgres/sluice"}


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "k8s" / "sluice.yaml").read_text()))


def test_the_deployed_configuration_loads_with_what_compose_gives_it() -> None:
    given = compose()["services"]["gateway-1"]["environment"]
    assert set(given) == {*SECRETS, *STORES, "OPENAI_API_KEY", "ANTHROPIC_API_KEY"}
    config = load(DEPLOY / "sluice.yaml", {**SECRETS, **STORES})
    assert config.redis is not None
    assert config.redis.url.get_secret_value() == given["REDIS_URL"]


def test_a_secret_that_is_missing_stops_the_start() -> None:
    with pytest.raises(Exception, match="SLUICE_PEPPER is not set"):
        load(DEPLOY / "sluice.yaml", {**STORES, "SLUICE_ADMIN_KEY": "a" * 32})


def test_compose_runs_two_gateways_on_shared_stores_and_publishes_no_admin_port() -> None:
    services = compose()["services"]
    gateways = [s for name, s in services.items() if name.startswith("gateway")]
    assert len(gateways) == 2
    for service in gateways:
        assert service["read_only"]
        assert set(service["depends_on"]) <= set(services)
        assert not any(port.endswith(":8081") for port in service["ports"])
    assert "noeviction" in services["redis"]["command"]
    volumes = {v.partition(":")[0] for s in services.values() for v in s.get("volumes", ()) if not v.startswith(".")}
    assert volumes == set(compose()["volumes"])


def test_every_grace_period_is_longer_than_the_drain() -> None:
    server = load(DEPLOY / "sluice.yaml", {**SECRETS, **STORES}).server
    needed = server.drain + server.drain_delay
    pod = next(d for d in manifests() if d["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    unit = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "systemd" / "sluice.service").read_text(), re.MULTILINE)
    assert unit is not None
    assert pod["terminationGracePeriodSeconds"] > needed
    assert int(unit[1]) > needed
    assert all(int(s["stop_grace_period"][:-1]) > needed for n, s in compose()["services"].items() if "gateway" in n)


def test_systemd_tells_the_parent_alone_to_end() -> None:
    unit = (DEPLOY / "systemd" / "sluice.service").read_text().splitlines()
    assert [line for line in unit if line.startswith("Kill")] == ["KillSignal=SIGTERM", "KillMode=mixed"]


def test_systemd_starts_it_again_for_as_long_as_its_stores_are_away() -> None:
    unit = (DEPLOY / "systemd" / "sluice.service").read_text()
    assert re.search(r"^Restart=on-failure$", unit, re.MULTILINE)
    first = unit.partition("[Service]")[0]
    assert "\nStartLimitIntervalSec=0\n" in first, "five starts in ten seconds would be the last by default"


def test_the_compose_file_follows_the_compose_specification() -> None:
    reader = PyOptions()
    reader.apply_merge = True
    text = (DEPLOY / "compose.yaml").read_text()
    made = reader.from_yaml(text)
    made.validate()
    assert set(made.service_names()) == {"gateway-1", "gateway-2", "redis", "postgres", "prometheus", "grafana"}
    for wrong in (
        text.replace("retries: 30", "retrys: 30"),
        text.replace("restart: unless-stopped", "restart: 7"),
        text.replace("127.0.0.1:3000:3000", "127.0.0.1:3000:web"),
    ):
        with pytest.raises(ValueError, match=r"."):
            reader.from_yaml(wrong).validate()


def test_grafana_is_provisioned_with_the_dashboards_and_their_source() -> None:
    grafana = compose()["services"]["grafana"]
    mounts = dict(v.split(":")[:2] for v in grafana["volumes"])
    folder = DEPLOY / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "sluice.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["./grafana"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert {p.stem for p in (DEPLOY / "grafana").glob("*.json")} == {"overview", "money", "providers", "tiers"}


def test_the_manifests_are_valid_kubernetes() -> None:
    version = kubernetes_validate.latest_version()
    for document in manifests():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_probes_ask_paths_that_are_served() -> None:
    container = next(d for d in manifests() if d["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    probes = {k: (v["httpGet"]["path"], v["httpGet"]["port"]) for k, v in container.items() if k.endswith("Probe")}
    alive = ("/healthz", "admin")
    assert probes == {"startupProbe": alive, "livenessProbe": alive, "readinessProbe": ("/readyz", "admin")}


def test_alerts_name_metrics_that_exist() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    expressions = " ".join(r["expr"] for r in yaml.safe_load(text)["groups"][0]["rules"])
    named = {
        re.sub(r"_(bucket|sum|count)$", "", m) for m in re.findall(r"\b(?:sluice|gen_ai_server)_[a-z_]+", expressions)
    }
    assert named
    assert named <= documented


def test_every_alert_fires_in_its_test() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    tested = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"][0]["alert_rule_test"]
    fires = {t["alertname"] for t in tested if t["exp_alerts"]}
    assert {r["alert"] for r in rules} == fires
    assert all(r["annotations"]["action"] for r in rules), "whoever is woken is told what to do"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's package prometheus")
def test_promtool_agrees() -> None:
    subprocess.run(["promtool", "test", "rules", str(DEPLOY / "prometheus" / "alerts_test.yml")], check=True)


def test_the_image_is_built_from_what_git_and_dockerignore_let_in() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze comes with Debian's package systemd"
)
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "sluice.service").read_text()
    unit = tmp_path / "sluice.service"
    unit.write_text(text.replace("/opt/sluice/bin/sluice", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "sluice.service" in line]
    assert ours == []
    unit.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "protect system" in done.stderr, "it would have told"


def test_benchmarks_run_with_the_variables_of_the_image_and_of_the_unit() -> None:
    image, unit = (DEPLOY / "Dockerfile").read_text(), (DEPLOY / "systemd" / "sluice.service").read_text()
    for name, value in IMAGE.items():
        last = image.rpartition("\nFROM ")[2]
        assert re.search(rf"^ENV .*\b{name}={value}\b", last, re.MULTILINE), name
        assert re.search(rf"^Environment=.*\b{name}={value}\b", unit, re.MULTILINE), name
