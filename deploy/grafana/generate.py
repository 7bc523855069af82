"""Write the Grafana dashboards beside this file: a table of panels each. ``make generated`` runs it, a test compares.

Import the JSON files in Grafana and choose the Prometheus data source, or let provisioning load the folder.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RATE = "$__rate_interval"
QUANTILES = "histogram_quantile({q}, sum by (le, model) (rate({metric}_bucket[{r}])))"

# Title, unit, and the queries with their legends.
Panel = tuple[str, str, list[tuple[str, str]]]
BOARDS: dict[str, tuple[str, list[Panel]]] = {
    "overview": (
        "Sluice: overview",
        [
            ("Requests by status", "reqps", [(f"sum by (status) (rate(sluice_requests_total[{RATE}]))", "{{status}}")]),
            (
                "Errors by code",
                "reqps",
                [(f'sum by (code) (rate(sluice_requests_total{{code!="ok"}}[{RATE}]))', "{{code}}")],
            ),
            (
                "Time to first token, p50 and p95",
                "s",
                [
                    (
                        QUANTILES.format(q=q, metric="sluice_time_to_first_token_seconds", r=RATE),
                        f"p{q[2:]} {{{{model}}}}",
                    )
                    for q in ("0.50", "0.95")
                ],
            ),
            (
                "Duration, p50 and p95",
                "s",
                [
                    (QUANTILES.format(q=q, metric="sluice_request_duration_seconds", r=RATE), f"p{q[2:]} {{{{model}}}}")
                    for q in ("0.50", "0.95")
                ],
            ),
            ("In flight", "short", [("sum by (instance) (sluice_in_flight)", "{{instance}}")]),
            ("Event loop lag", "s", [("max by (instance) (sluice_loop_lag_seconds)", "{{instance}}")]),
            ("Memory", "bytes", [("process_resident_memory_bytes", "{{instance}}")]),
            ("Configuration", "short", [("count by (version) (sluice_config_info)", "{{version}}")]),
        ],
    ),
    "money": (
        "Sluice: tokens and money",
        [
            (
                "Spend per hour by model",
                "currencyUSD",
                [("sum by (model) (rate(sluice_cost_usd_total[1h])) * 3600", "{{model}}")],
            ),
            (
                "Spend per hour by deployment",
                "currencyUSD",
                [("sum by (deployment) (rate(sluice_cost_usd_total[1h])) * 3600", "{{deployment}}")],
            ),
            ("Tokens by kind", "short", [(f"sum by (kind) (rate(sluice_tokens_total[{RATE}]))", "{{kind}}")]),
            (
                "Spend per hour by team (needs metrics.tenant_labels)",
                "currencyUSD",
                [("sum by (team) (rate(sluice_tenant_cost_usd_total[1h])) * 3600", "{{team}}")],
            ),
        ],
    ),
    "providers": (
        "Sluice: providers",
        [
            (
                "Attempts by outcome",
                "reqps",
                [(f"sum by (deployment, status) (rate(sluice_attempts_total[{RATE}]))", "{{deployment}} {{status}}")],
            ),
            (
                "Success by deployment",
                "percentunit",
                [
                    (
                        f'sum by (deployment) (rate(sluice_attempts_total{{status="ok"}}[{RATE}]))'  # noqa: ISC004
                        f" / sum by (deployment) (rate(sluice_attempts_total[{RATE}]))",
                        "{{deployment}}",
                    )
                ],
            ),
            ("Breaker open", "short", [("max by (deployment) (sluice_breaker_open)", "{{deployment}}")]),
            ("Cool-down", "s", [("max by (deployment) (sluice_cool_down_seconds)", "{{deployment}}")]),
        ],
    ),
    "tiers": (
        "Sluice: service tiers",
        [
            (
                "Answers by tier that served",
                "reqps",
                [(f"sum by (served) (rate(sluice_tier_served_total[{RATE}]))", "{{served}}")],
            ),
            (
                "Dear tiers that ran as default, by reason",
                "reqps",
                [(f"sum by (model, reason) (rate(sluice_tier_downgrades_total[{RATE}]))", "{{model}} {{reason}}")],
            ),
            (
                "Money by tier",
                "currencyUSD",
                [(f"sum by (tier) (rate(sluice_cost_usd_total[{RATE}])) * 3600", "{{tier}} an hour")],
            ),
            (
                "Tokens by tier",
                "short",
                [(f"sum by (tier) (rate(sluice_tokens_total[{RATE}])) * 60", "{{tier}} a minute")],
            ),
            (
                "Wait in the gateway's own queue, p99",
                "s",
                [
                    (
                        f"histogram_quantile(0.99, sum by (le, model, tier) (rate(sluice_queue_wait_seconds_bucket[{RATE}])))",
                        "{{model}} {{tier}}",
                    )
                ],
            ),
            (
                "Turned away",
                "reqps",
                [
                    (f"sum by (model, tier) (rate(sluice_queue_shed_total[{RATE}]))", "queue of {{model}} {{tier}}"),
                    (f"sum by (tier) (rate(sluice_worker_shed_total[{RATE}]))", "busy worker {{tier}}"),
                    (f"sum by (model) (rate(sluice_tier_refused_total[{RATE}]))", "flex of {{model}}"),
                ],
            ),
            (
                "Capacity that was found, and in flight",
                "short",
                [
                    ("sum by (model) (sluice_queue_capacity)", "capacity of {{model}}"),
                    ("sum by (model, class) (sluice_queue_in_flight)", "{{model}} {{class}}"),
                ],
            ),
            (
                "Time to first token by tier, p95",
                "s",
                [
                    (
                        f"histogram_quantile(0.95, sum by (le, tier) (rate(sluice_time_to_first_token_seconds_bucket[{RATE}])))",
                        "{{tier}}",
                    )
                ],
            ),
        ],
    ),
}


def dashboard(name: str) -> str:
    title, panels = BOARDS[name]
    source = {"type": "prometheus", "uid": "${source}"}
    document: dict[str, Any] = {
        "uid": f"sluice-{name}",
        "title": title,
        "tags": ["sluice"],
        "timezone": "browser",
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel,
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(65 + i), "expr": query, "legendFormat": legend, "datasource": source}
                    for i, (query, legend) in enumerate(queries)
                ],
            }
            for number, (panel, unit, queries) in enumerate(panels)
        ],
    }
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    for board in BOARDS:
        (HERE / f"{board}.json").write_text(dashboard(board))
