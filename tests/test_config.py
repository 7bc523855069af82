"""The configuration file: what it may say, and how a mistake is told."""

import hashlib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from config import ConfigError, load, parse
from config.schema import Config
from gateway.__main__ import main

EXAMPLE = Path(__file__).parents[1] / "config" / "example.yaml"
GOOD: dict[str, Any] = {
    "providers": {"openai": {"adapter": "openai", "api_key": "sk-test"}},
    "models": {"fast": {"deployments": [{"provider": "openai", "model": "gpt-5-mini"}]}},
    "keys": [{"name": "k", "key": "sk-sl-0123456789abcdef"}],
}


def changed(**sections: Any) -> str:
    return yaml.safe_dump({**GOOD, **sections})


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, environ)
    return caught.value.problems


def test_the_example_loads() -> None:
    config = load(EXAMPLE, {})
    assert config.models["fast"].deployments[0].provider == "openai"


def options(model: type[BaseModel], seen: set[type]) -> set[str]:
    names: set[str] = set()
    if model in seen:
        return names
    seen.add(model)
    for name, field in model.model_fields.items():
        names.add(name)
        stack = [field.annotation]
        while stack:
            annotation = stack.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                names |= options(annotation, seen)
            stack.extend(get_args(annotation))
    return names


def test_the_example_shows_every_option() -> None:
    text = EXAMPLE.read_text()
    missing = {name for name in options(Config, set()) if f"{name}:" not in text}
    assert missing - {"digest"} == set()  # a key has either `key` or `digest`; the comment names it
    assert "digest:" in text


def test_every_option_has_one_meaning() -> None:
    config = parse(yaml.safe_dump(GOOD), {})
    assert config.server.workers == 1
    assert config.redis is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server: {prot: 1}", "server.prot: no such option; did you mean 'port'?"),
        ("servers: {}", "servers: no such option; did you mean 'server'?"),
        ("server: {port: x}", "server.port: input should be a valid integer, unable to parse string as an integer"),
        (
            "models: {m: {deployments: []}}",
            "models.m.deployments: list should have at least 1 item after validation, not 0",
        ),
        ("keys: [{name: a, models: fast}]", "keys[0].models: must be a list; write [VALUE, ...]"),
        ("teams: {a: }", "teams.a: must be a mapping of options"),
        ("keys: [{name: a, key: $MY_KEY}]", "keys[0].key: write ${MY_KEY} for the variable, or $$MY_KEY for the text"),
        ("providers: {o: {api_key: os.environ/KEY}}", "providers.o.api_key: write ${KEY} for the variable"),
        ("providers: {o: {api_key: '${MY-KEY}'}}", "providers.o.api_key: `${` begins no ${NAME}"),
        ("providers: {o: {api_key: 'x-${KEY'}}", "providers.o.api_key: `${` begins no ${NAME}"),
        ("providers: {o: {api_key: '${A:-${B}}'}}", "providers.o.api_key: `${` begins no ${NAME}"),
        ("redis: {url: 'redis://127.0.0.1:6379/main'}", "redis.url: its path is no number of a database"),
        ("server: {cors_origins: ['https://a.example/']}", "server.cors_origins[0]: not an origin"),
        ("server: {cors_origins: [a.example]}", "server.cors_origins[0]: not an origin"),
        ("server: {cors_origins: ['https://*.a.example']}", "server.cors_origins[0]: not an origin"),
        ("models: {m: {deploymnets: []}}", "models.m.deploymnets: no such option; did you mean 'deployments'?"),
        ("server: {port: 1, port: 2}", "not YAML:"),
        ("[1, 2]", "the file must be a mapping of options"),
        ("a: [", "not YAML:"),
        ("keys: [{name: a, key: 0123456789abcdef, expires: tomorrow}]", "keys[0].expires: not an ISO 8601"),
        ("a: {<<: {b: 1}, c: 1, c: 2}", "not YAML: line 1, column 23: duplicate key 'c'"),
        ("providers: {o: {adapter: openai, base_url: 'https://[x/v1'}}", "providers.o.base_url: not an address"),
        ("providers: {o: {adapter: openai, base_url: 'https://x:99999/v1'}}", "providers.o.base_url: not an address"),
        (
            "auth: {jwt: {issuer: i, audience: a, jwks_url: 'https://[x'}}",
            "auth.jwt.jwks_url: must be an https:// address",
        ),
        (
            "tracing: {langfuse: {host: 'https://[x', public_key: p, secret_key: s}}",
            "tracing.langfuse.host: not an address",
        ),
        ("a: {? [b] : 1}", "not YAML: line 1, column 7: keys must be plain values"),
    ],
)
def test_a_mistake_names_its_path(text: str, line: str) -> None:
    assert any(p.startswith(line) for p in problems(text)), problems(text)


@pytest.mark.parametrize(
    "text",
    [
        "models: {m: {deployments: [{provider: o, model: m, weight: -1}]}}",
        "admin: {keys: {ops: '${NOT_SET}'}}",
        "redis: {url: '${NOT_SET}'}",
    ],
)
def test_one_mistake_is_one_line(text: str) -> None:
    """What only follows from it is no other: a list without its one wrong item is empty, a variable that is not set no text."""
    assert len([line for line in problems(text) if not line.startswith("models.m.deployments[0].provider")]) == 1


@pytest.mark.parametrize(
    "text", ["$$MY_KEY-0123456789", "$ix-Dollars-0123456789", "pa$$w0rd$-0123456789", "$${KEY}-0123456789"]
)
def test_a_dollar_sign_that_begins_no_variable_stays(text: str) -> None:
    (key,) = parse(yaml.safe_dump({**GOOD, "keys": [{"name": "a", "key": text}]}), {}).keys
    assert key.key is not None
    assert key.key.get_secret_value() == text.replace("$$", "$")


@pytest.mark.parametrize("origin", ["*", "null", "https://a.example", "http://localhost:3000", "app://obsidian.md"])
def test_what_browsers_send_as_their_origin_may_call(origin: str) -> None:
    assert parse(yaml.safe_dump({**GOOD, "server": {"cors_origins": [origin]}}), {}).server.cors_origins == (origin,)


@pytest.mark.parametrize("factor", ["-0.5", "1001"])
def test_a_tier_costs_no_less_than_nothing(factor: str) -> None:
    price = {"input": 1, "output": 2, "tiers": {"flex": factor}}
    text = changed(models={"m": {"deployments": [{"provider": "openai", "model": "x", "price": price}]}})
    assert any(p.startswith("models.m.deployments[0].price.tiers.flex: ") for p in problems(text)), problems(text)


def test_a_reference_to_nothing_suggests_the_nearest_name() -> None:
    text = changed(
        models={"fast": {"deployments": [{"provider": "opena", "model": "x"}], "fallbacks": {"any": ["slow"]}}}
    )
    assert problems(text) == [
        "models.fast.deployments[0].provider: no provider 'opena'; did you mean 'openai'?",
        "models.fast.fallbacks.any[0]: no model 'slow'",
    ]


def test_every_mistake_is_told_at_once() -> None:
    text = changed(
        teams={"a": {"organization": "nowhere"}},
        users={"u": {"team": "b"}},
        keys=[{"name": "k", "key": "short"}, {"name": "k", "digest": "sha256:" + "0" * 64, "team": "c"}],
        admin={"keys": {"ops": "weak"}},
        aliases={"fast": "fast", "x": "y"},
        model_groups={"g": ["z"]},
    )
    assert [p.split(":")[0] for p in problems(text)] == [
        "aliases.fast", "aliases.x", "model_groups.g[0]", "teams.a.organization", "users.u.team",
        "keys[1].name", "keys[1].team", "admin.keys.ops", "keys[0].key",
    ]  # fmt: skip


def test_what_is_merged_may_be_said_otherwise_beside_it() -> None:
    text = """
    providers:
      far: {<<: &near {adapter: openai, api_key: near}, api_key: far}
      near: *near
    teams:
      a: {<<: &limited {limits: {rpm: 1}, tags: [x]}, tags: [y]}
      b: {tags: [z], <<: *limited}
    """
    config = parse(text, {})
    keys = {name: p.api_key.get_secret_value() for name, p in config.providers.items() if p.api_key}
    assert keys == {"far": "far", "near": "near"}
    assert [(t.tags, t.limits.rpm) for t in config.teams.values()] == [(("y",), 1), (("z",), 1)]


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}", "{}\x00"])
def test_a_secret_that_no_header_can_hold_is_named_and_not_shown(around: str) -> None:
    secret = around.format("0123456789abcdef" * 2)
    text = changed(
        providers={"openai": {"adapter": "openai", "api_key": "${SECRET}", "headers": {"x-team": "${SECRET}"}}},
        keys=[{"name": "a", "key": "${SECRET}"}],
        admin={"keys": {"ops": "${SECRET}1"}},
    )
    with pytest.raises(ConfigError) as refused:
        parse(text, {"SECRET": secret})
    told = refused.value.problems
    paths = ["providers.openai.api_key", "providers.openai.headers.x-team", "keys[0].key", "admin.keys.ops"]
    assert [p.split(":")[0] for p in told] == paths
    assert "0123456789" not in "".join(told)


def test_S_12_one_secret_is_one_key_however_it_is_written() -> None:
    secret, other = "sk-sl-" + "0123456789abcdef" * 2, "sk-sl-" + "fedcba9876543210" * 2
    digest = "sha256:" + hashlib.sha256(secret.encode()).hexdigest()
    text = changed(keys=[{"name": "a", "digest": digest}], admin={"keys": {"ops": secret}})
    assert problems(text) == ["admin.keys.ops: is also a virtual key; they must differ"]
    text = changed(keys=[{"name": "a", "digest": digest}, {"name": "b", "key": secret}])
    assert problems(text) == ["keys: two keys have the same secret"]
    text = changed(admin={"keys": {"ann": secret, "ops": other, "bob": secret}})
    assert [p.split(":")[0] for p in problems(text)] == ["admin.keys.bob"]


def test_a_model_named_by_a_wildcard_is_refused() -> None:
    text = changed(models={"gpt-*": {"deployments": [{"provider": "openai", "model": "x"}]}})
    assert any(problem.startswith("models.gpt-*: a wildcard is an alias") for problem in problems(text))


def test_fallback_cycles_are_refused() -> None:
    deployment = {"deployments": [{"provider": "openai", "model": "x"}]}
    text = changed(
        models={
            "a": {**deployment, "fallbacks": {"any": ["b"]}},
            "b": {**deployment, "fallbacks": {"timeout": ["c"]}},
            "c": {**deployment, "cheaper": "a"},
        }
    )
    assert "models.a.fallbacks: a cycle: a -> b -> c -> a" in problems(text)


def test_environment_variables_are_expanded_once() -> None:
    text = changed(server={"host": "${HOST}", "port": "${PORT:-9000}"}, logging={"level": "${LEVEL:-info}"})
    config = parse(text, {"HOST": "${PORT}", "PORT": ""})
    assert config.server.host == "${PORT}"
    assert config.server.port == 9000


def test_a_variable_that_is_not_set_is_a_mistake_with_its_path() -> None:
    text = changed(providers={"openai": {"adapter": "openai", "api_key": "${NOPE}"}})
    assert problems(text) == [
        "providers.openai.api_key: the environment variable NOPE is not set (write ${NOPE:-} if it may be empty)"
    ]


def test_dollar_dollar_is_a_dollar() -> None:
    config = parse(changed(organizations={"default": {"metadata": {"a": "$${HOME} $$5"}}}), {})
    assert config.organizations["default"].metadata == {"a": "${HOME} $5"}


def test_several_workers_need_redis() -> None:
    assert problems(changed(server={"workers": 2})) == [
        "server.workers: more than one worker needs `redis`: a limit that each worker enforces alone is not a limit"
    ]


def test_a_queue_must_fit_its_workers_and_itself() -> None:
    text = (
        "server: {workers: 4}\nredis: {url: redis://127.0.0.1}\nproviders: {p: {adapter: openai}}\n"
        "models: {m: {deployments: [{provider: p, model: m}], queue: {capacity: 2, min_capacity: 3}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        parse(text, {})
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "models.m.queue.min_capacity",
        "models.m.queue.capacity",
    ]


def test_deployments_of_one_name_must_have_the_same_limits() -> None:
    def file(**batch: Any) -> str:
        limited = {"provider": "openai", "model": "gpt", "limits": {"rpm": 2}}
        fast = {k: v for k, v in limited.items() if k != "limits" or batch.get("limits")}
        models = {"fast": {"deployments": [fast]}, "batch": {"deployments": [limited | batch]}}
        return changed(models=models, model_groups={}, aliases={})

    (problem,) = problems(file())
    assert problem == (
        "models.fast.deployments[0].limits: differ from those of 'openai/gpt' at models.batch.deployments[0], and "
        "deployments of one name share theirs; say the same at both, or give one a `name`"
    )
    parse(file(name="batch"), {})
    parse(file(limits={"rpm": 2}), {})


def test_plain_http_to_another_machine_must_be_wanted() -> None:
    away = {"openai": {"adapter": "openai", "base_url": "http://models.example/v1"}}
    assert problems(changed(providers=away))[0].startswith(
        "providers.openai.base_url: http:// sends the key in the clear"
    )
    parse(changed(providers={"openai": {**away["openai"], "allow_plain_http": True}}), {})


def test_no_value_of_a_bad_option_is_repeated() -> None:
    """S-19: a secret in the wrong place must not be printed."""
    text = changed(providers={"openai": {"adapter": "openai", "api_keys": "sk-canary", "api_key": ["sk-canary-2"]}})
    assert not any("canary" in p for p in problems(text))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "sluice.yaml"
    path.write_text(text)
    return str(path)


def test_check_prints_the_effective_config_with_secrets_masked(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", write(tmp_path, changed())])
    assert result.exit_code == 0
    shown = yaml.safe_load(result.output)
    assert shown["server"]["keepalive"] == 75
    assert "sk-test" not in result.output
    assert "0123456789abcdef" not in result.output


def test_check_prints_every_mistake_and_exits_with_1(tmp_path: Path) -> None:
    path = write(tmp_path, changed(server={"prot": 1}, aliases={"a": "b"}))
    result = CliRunner().invoke(main, ["check", path])
    assert result.exit_code == 1
    assert f"{path}: server.prot: no such option; did you mean 'port'?" in result.output


def test_check_names_an_adapter_that_is_not_installed(tmp_path: Path) -> None:
    path = write(tmp_path, changed(providers={"openai": {"adapter": "antropic", "api_key": "x"}}))
    result = CliRunner().invoke(main, ["check", path])
    assert result.exit_code == 1
    assert "providers.openai.adapter: no adapter 'antropic'; did you mean 'anthropic'?" in result.output


def test_check_says_when_a_file_is_not_there() -> None:
    result = CliRunner().invoke(main, ["check", "/nowhere.yaml"])
    assert result.exit_code == 1
    assert "/nowhere.yaml: cannot be read" in result.output
