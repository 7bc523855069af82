"""Write the Grafana dashboards beside this file: a table of panels each. ``make generated`` runs it, a test compares.

Import the JSON files in Grafana and choose the Prometheus data source, or let provisioning load the folder.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
R = "$__rate_interval"


def quantile(q: str, metric: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket[{R}])))"


def quantiles(metric: str, by: str = "gen_ai_request_model") -> list[tuple[str, str]]:
    """The median and the 95th percentile."""
    return [(quantile(q, metric, by), f"p{q[2:]} {{{{{by}}}}}") for q in ("0.50", "0.95")]


def rate(metric: str, by: str, match: str = "") -> list[tuple[str, str]]:
    """A counter's rate by some of its labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [(f"sum by ({by}) (rate({metric}{match}[{R}]))", legend)]


def hourly(metric: str, by: str) -> list[tuple[str, str]]:
    return [(f"sum by ({by}) (rate({metric}[1h])) * 3600", f"{{{{{by}}}}}")]


DURATION = "gen_ai_server_request_duration_seconds"
TTFT = "gen_ai_server_time_to_first_token_seconds"
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"
TIER = "openai_response_service_tier"

# Title, unit, and the queries with their legends.
Panel = tuple[str, str, list[tuple[str, str]]]
BOARDS: dict[str, tuple[str, list[Panel]]] = {
    "overview": (
        "Sluice: overview",
        [
            ("Requests by status", "reqps", rate("sluice_requests_total", "status")),
            ("Errors by code", "reqps", rate("sluice_requests_total", "code", '{code!="ok"}')),
            ("Time to first token, p50 and p95", "s", quantiles(TTFT)),
            ("Time per output token, p50 and p95", "s", quantiles(PER_TOKEN)),
            ("Duration, p50 and p95", "s", quantiles(DURATION)),
            ("The gateway's own time by phase, p50 and p95", "s", quantiles("sluice_overhead_seconds", "phase")),
            ("Tokens by kind", "short", rate("sluice_tokens_total", "kind")),
            ("In flight", "short", [("sum by (instance) (sluice_in_flight)", "{{instance}}")]),
            ("Event loop lag", "s", [("max by (instance) (sluice_loop_lag_seconds)", "{{instance}}")]),
            ("Stores that answer", "short", [("min by (store) (sluice_store_healthy)", "{{store}}")]),
            ("Latency of stores", "s", [("max by (store) (sluice_store_latency_seconds)", "{{store}}")]),
            ("Memory", "bytes", [("sum by (instance) (sluice_memory_bytes)", "{{instance}}")]),
            ("Workers by configuration", "short", [("sum by (version) (sluice_config_info) > 0", "{{version}}")]),
            (
                "Reloads of the configuration",
                "short",
                [("sum by (result) (sluice_config_reloads_total)", "{{result}}")],
            ),
        ],
    ),
    "money": (
        "Sluice: tenants and money",
        [
            ("Spend per hour by model", "currencyUSD", hourly("sluice_cost_usd_total", "model")),
            ("Spend per hour by deployment", "currencyUSD", hourly("sluice_cost_usd_total", "deployment")),
            (
                "Least left of any limit or budget",
                "percentunit",
                [("min by (owner, limit) (sluice_limit_remaining_ratio)", "{{owner}} {{limit}}")],
            ),
            (
                "Budgets that passed a threshold",
                "short",
                [("sum by (budget, percent) (sluice_budget_thresholds_passed_total)", "{{budget}} {{percent}} %")],
            ),
            (
                "Spend per hour by team (needs metrics.tenant_labels)",
                "currencyUSD",
                hourly("sluice_tenant_cost_usd_total", "team"),
            ),
            (
                "Tokens by team and key (needs metrics.tenant_labels)",
                "short",
                rate("sluice_tenant_tokens_total", "team, key"),
            ),
            (
                "Requests by team and key (needs metrics.tenant_labels)",
                "reqps",
                rate("sluice_tenant_requests_total", "team, key"),
            ),
            (
                "Budgets: left (needs metrics.tenant_labels)",
                "currencyUSD",
                [("min by (owner, scope, limit) (sluice_budget_remaining_usd)", "{{owner}} {{scope}} {{limit}}")],
            ),
            (
                "Limits: share left (needs metrics.tenant_labels)",
                "percentunit",
                [
                    (
                        "min by (owner, scope, limit) (sluice_limit_remaining)"  # noqa: ISC004
                        " / max by (owner, scope, limit) (sluice_limit_cap)",
                        "{{owner}} {{scope}} {{limit}}",
                    )
                ],
            ),
        ],
    ),
    "providers": (
        "Sluice: providers",
        [
            ("Attempts by outcome", "reqps", rate("sluice_attempts_total", "deployment, status")),
            (
                "Success by deployment",
                "percentunit",
                [
                    (
                        f'sum by (deployment) (rate(sluice_attempts_total{{status="ok"}}[{R}]))'  # noqa: ISC004
                        f" / sum by (deployment) (rate(sluice_attempts_total[{R}]))",
                        "{{deployment}}",
                    )
                ],
            ),
            ("Attempts beyond the first", "reqps", rate("sluice_retries_total", "model")),
            ("Answers by another model", "reqps", rate("sluice_fallbacks_total", "model, to")),
            ("Breaker open", "short", [("max by (deployment) (sluice_breaker_open)", "{{deployment}}")]),
            ("Cool-down", "s", [("max by (deployment) (sluice_cool_down_seconds)", "{{deployment}}")]),
            (
                "Reached by active checks (needs health.active)",
                "short",
                [("min by (provider) (sluice_upstream_reachable)", "{{provider}}")],
            ),
            ("Duration by provider, p50 and p95", "s", quantiles(DURATION, "gen_ai_provider_name")),
        ],
    ),
    "tiers": (
        "Sluice: service tiers",
        [
            ("Answers by tier that served", "reqps", rate("sluice_tier_served_total", "served")),
            ("Answers by tier that was asked for", "reqps", rate("sluice_tier_served_total", "requested")),
            ("Time to first token by tier, p50 and p95", "s", quantiles(TTFT, TIER)),
            ("Spend per hour by tier", "currencyUSD", hourly("sluice_cost_usd_total", "tier")),
            ("Downgrades by reason", "reqps", rate("sluice_tier_downgrades_total", "effective, reason")),
            ("Flex requests refused", "reqps", rate("sluice_tier_refused_total", "model")),
            ("Queue: waiting", "short", [("sum by (model, class) (sluice_queue_waiting)", "{{model}} {{class}}")]),
            (
                "Queue: in flight and capacity",
                "short",
                [
                    ("sum by (model, class) (sluice_queue_in_flight)", "{{model}} {{class}}"),
                    ("sum by (model) (sluice_queue_capacity)", "{{model}} capacity"),
                ],
            ),
            ("Queue: wait, p50 and p95", "s", quantiles("sluice_queue_wait_seconds", "tier")),
            ("Queue: turned away", "reqps", rate("sluice_queue_shed_total", "model, tier")),
            ("Busy workers: turned away", "reqps", rate("sluice_worker_shed_total", "tier")),
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
