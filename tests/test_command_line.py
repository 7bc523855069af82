"""One style of commands: every one knows --json, errors say what to do, long work shows a bar, shells complete."""

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from gateway.__main__ import COMMANDS, main

from .running import FREE, KEY, running
from .servers import RedisServer, free_port

ISSUE = {
    "serve",
    "check",
    "explain",
    "demo",
    "keys",
    "usage",
    "prices",
    "db",
    "audit",
    "reconcile",
    "import-litellm",
    "bench",
}


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


LEAVES = dict(leaves(main))


def sluice(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def test_every_command_is_there() -> None:
    assert set(COMMANDS) >= ISSUE


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_every_command_can_print_json_and_says_what_it_does(name: str) -> None:
    command = LEAVES[name]
    options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    assert "--json" in options
    assert command.help, "said in --help"
    assert command.get_short_help_str(200).endswith((".", "...")) or command.help


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str) -> None:
    made = sluice(_SLUICE_COMPLETE=f"{shell}_source")
    assert made.returncode == 0, made.stderr
    assert "_SLUICE_COMPLETE" in made.stdout
    asked = (
        {"COMP_WORDS": "sluice import", "COMP_CWORD": "1"}
        if shell != "fish"
        else {"COMP_WORDS": "sluice import", "COMP_CWORD": "import"}
    )
    found = sluice(_SLUICE_COMPLETE=f"{shell}_complete", **asked)
    assert "import-litellm" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("keys", "list", "--config", "/nowhere/sluice.yaml"), "/nowhere/sluice.yaml"),
        (("keys", "list", "--url", "http://127.0.0.1:1"), "SLUICE_ADMIN_KEY"),
        (("keys", "create", "x", "--budget", "5/fortnight"), "50/month"),
        (("usage", "--by", "nonsense"), "group"),
        (("prices", "show", "openai/nothing-like-it"), "`price`"),
        (("bench", "http://127.0.0.1:1/v1"), "OPENAI_API_KEY"),
        (("reconcile",), "--url"),
        (("nonsense",), "No such command"),
    ],
)
def test_errors_say_what_to_do_in_words_or_json(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text(f'database: {{url: "sqlite:///{tmp_path}/x.db"}}\n')
    environment = {"SLUICE_CONFIG": str(config), "OPENAI_API_KEY": "", "SLUICE_ADMIN_KEY": ""}
    plain = sluice(*arguments, **environment)
    assert plain.returncode != 0
    assert told in plain.stderr
    assert "Traceback" not in plain.stderr
    shaped = sluice(*arguments, "--json", **environment)
    assert shaped.returncode == plain.returncode
    assert told in json.loads(shaped.stderr)["error"]["message"]


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (r'api_key: "top-secret\n"', ["api_key: "]),
        ("base_url: 'https://x:99999/v1'", ["base_url: "]),
        ('headers: {Host: x, "x y": z, ok: top-secret}', ["headers.Host: ", "headers.x y: "]),
    ],
)
def test_what_no_request_can_be_written_with_is_a_mistake_of_the_configuration(
    tmp_path: Path, options: str, problems: list[str]
) -> None:
    models = "models: {m: {deployments: [{provider: a, model: x}]}}\n"
    (tmp_path / "c.yaml").write_text(f"providers:\n  a: {{adapter: openai, {options}}}\n{models}")
    found = sluice("check", "--quiet", str(tmp_path / "c.yaml"))
    assert found.returncode != 0
    for named in problems:
        assert f"providers.a.{named}" in found.stderr + found.stdout
    assert "headers.ok" not in found.stderr + found.stdout
    assert "top-secret" not in found.stderr + found.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serve", "{0}/none.yaml"), "{0}/none.yaml: cannot be read: No such file or directory"),
        (("serve", "{0}/latin"), "{0}/latin: cannot be read: not UTF-8"),
        (("explain", "{0}/latin", "-c", "{0}/sluice.yaml"), "latin: not UTF-8"),
        (("explain", "{0}/list", "-c", "{0}/sluice.yaml"), "list: not a JSON object"),
        (("explain", "{0}/object", "-c", "{0}/secret.yaml"), "secret.yaml: not YAML: line 1, column 31: "),
        (("import-litellm", "{0}/sluice.yaml", "-o", "{0}/no/x.yaml"), "/no/x.yaml: No such file or directory"),
        (("import-litellm", "{0}/secret.yaml"), "secret.yaml: not YAML: line 1, column 31: "),
        (("import-litellm", "{0}/latin"), "latin: not UTF-8"),
        (("prices", "update", "{0}/prices", "--to", "{0}/no/x", "--yes"), "/no/x: No such file or directory"),
        (("demo", "--once", "--port", "{1}"), "127.0.0.1:{1}: Address already in use; choose others by --port"),
        (("demo", "--upstream-only", "--port", "{1}"), "127.0.0.1:{1} is in use; choose another by --port"),
        (("keys", "list", "--url", "http://127.0.0.1:{2}"), "does not answer as an admin API"),
        (("keys", "show", "x", "--url", "http://127.0.0.1:{2}/refused"), "does not answer as an admin API"),
    ],
)
def test_what_goes_wrong_around_a_command_is_a_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """No stack trace, and nothing of a file that may be a secret."""
    files = {
        "latin": b"\xff", "list": b"[]", "object": b"{}", "prices": b'{"providers": {}}', "secret.yaml": b"providers: {api_key: sk-SECRET: x}",
        "sluice.yaml": f'database: {{url: "sqlite:///{tmp_path}/x.db"}}'.encode(),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as taken, _something_else() as other:
        port = taken.getsockname()[1]
        filled = [a.format(tmp_path, port, other) for a in arguments]
        plain = sluice(*filled, SLUICE_ADMIN_KEY="a" * 32)
        shaped = sluice(*filled, "--json", SLUICE_ADMIN_KEY="a" * 32)
    said = told.format(tmp_path, port, other)
    assert (plain.returncode, shaped.returncode) == (1, 1)
    assert said in plain.stderr.splitlines()[-1]
    assert "Traceback" not in plain.stderr
    assert said in json.loads(shaped.stderr.splitlines()[-1])["error"]["message"]
    assert "SECRET" not in plain.stderr + plain.stdout


@contextmanager
def _something_else() -> Iterator[int]:
    """An HTTP server that speaks JSON and is no gateway; its port."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403 if "refused" in self.path else 200)
            self.end_headers()
            self.wfile.write(b'{"detail": "Hello"}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("redis: {url: localhost:6379}", "redis.url: not an address"),
        ("redis: {url: 'redis://:SECRET@h:many/0'}", "redis.url: not an address"),
        ("counters: {webhook: hooks.example/SECRET}", "counters.webhook: not an address"),
        ("tracing: {endpoint: 'collector:4318'}", "tracing.endpoint: not an address"),
        ("pricing: {prices: /nowhere/prices.json}", "pricing.prices: cannot be read: No such file or directory"),
    ],
)
def test_a_check_finds_what_would_end_the_start_or_fail_later(document: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(document)
    done = sluice("check", str(file))
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert "SECRET" not in done.stderr


def test_the_database_commands_speak_json(tmp_path: Path) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text(f'database: {{url: "sqlite:///{tmp_path}/x.db"}}\n')
    runner = CliRunner()
    assert json.loads(runner.invoke(main, ["db", "check", "-c", str(config), "--json"]).stdout) == {"current": False}
    assert json.loads(runner.invoke(main, ["db", "upgrade", "-c", str(config), "--json"]).stdout) == {"current": True}
    assert json.loads(runner.invoke(main, ["db", "check", "-c", str(config), "--json"]).stdout) == {"current": True}


@pytest.mark.parametrize("stream", [False, True])
def test_bench_measures_an_embedded_gateway(stream: bool) -> None:
    done = sluice("bench", "-n", "40", "-c", "8", "--json", *(["--stream"] if stream else []))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["requests"], told["answered"], told["statuses"]) == (40, 40, {"200": 40})
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]
    assert ("first_token_ms" in told) == stream
    assert told["output_tokens_per_second"] > 0


async def test_bench_measures_a_gateway_that_runs_and_fails_where_requests_fail() -> None:
    import asyncio

    keys = [{"name": "test", "key": KEY, "limits": {"rpd": 25}}]
    async with running({"m": "demo-ok"}, keys=keys) as (gateway, upstream):
        given = ("bench", f"{gateway.url}/v1", "--model", "m", "-n")
        good = await asyncio.to_thread(sluice, *given, "20", "--json", OPENAI_API_KEY=KEY)
        assert (good.returncode, len(list(upstream.journal))) == (0, 20)
        bad = await asyncio.to_thread(sluice, *given, "10", OPENAI_API_KEY=KEY)
        assert bad.returncode == 1
        assert "5 of 10 answered" in bad.stdout
        assert "5 x 429" in bad.stdout


async def test_a_stream_that_breaks_counts_as_failed() -> None:
    import asyncio

    async with running({"m": "demo-cut"}) as (gateway, _):
        given = ("bench", f"{gateway.url}/v1", "--model", "m", "-n", "3", "--stream", "--json")
        done = await asyncio.to_thread(sluice, *given, OPENAI_API_KEY=KEY)
    assert done.returncode == 1
    assert json.loads(done.stdout)["answered"] == 0


def test_long_work_shows_a_bar_to_a_person_and_nothing_to_a_pipe() -> None:
    def seen(argument: str) -> str:
        main_end, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "bench", "-n", argument, "--json"],
            stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )  # fmt: skip
        os.close(terminal)
        parts: list[bytes] = []

        def read() -> None:
            try:
                while data := os.read(main_end, 4096):
                    parts.append(data)
            except OSError:
                return  # the other end is closed

        reader = threading.Thread(target=read)
        reader.start()
        out, _ = process.communicate(timeout=60)
        reader.join(10)
        os.close(main_end)
        assert json.loads(out)["answered"] == int(argument), "what is piped on is JSON and nothing else"
        return b"".join(parts).decode()

    assert "600/600" in seen("600")
    assert sluice("bench", "-n", "20").stderr == ""


def test_prices_are_compared_as_json(tmp_path: Path) -> None:
    from importlib.resources import files

    path = tmp_path / "prices.json"
    path.write_text((files("config") / "prices.json").read_text())
    done = sluice("prices", "update", str(path), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize(
    ("listener", "host", "why"),
    [
        ("server", "127.0.0.1", "Address already in use"),
        ("admin", "127.0.0.1", "Address already in use"),
        ("server", "nowhere.invalid", ""),
    ],
)
def test_where_nobody_can_listen_the_reason_is_told_and_the_process_ends(
    listener: str, host: str, why: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listeners = {name: {"port": free_port()} for name in ("server", "admin")}
        listeners[listener] = {"host": host, "port": port}
        document = {
            **listeners,
            "providers": {"openai": {"adapter": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "up"}},
            "models": {"m": {"deployments": [{"provider": "openai", "model": "m", "price": FREE}]}},
            "keys": [{"name": "test", "key": KEY}],
            "redis": {"url": redis_server.url},
            "database": {"url": f"sqlite:///{tmp_path}/sluice.db"},
            "ledger": {"journal": f"{tmp_path}/journal"},
        }
        path = tmp_path / "sluice.yaml"
        path.write_text(yaml.safe_dump(document))
        done = sluice("serve", str(path))
    assert done.returncode == 1
    assert f"{path}: {listener}.port: {host}:{port}: {why}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("lacking", "told"),
    [("gunicorn", "needs the extra `workers`"), ("gateway.worker", "import of gateway.worker halted")],
)
def test_what_several_workers_lack_is_named(lacking: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "sluice.yaml"
    path.write_text(yaml.safe_dump({"server": {"workers": 2}, "redis": {"url": "redis://127.0.0.1:9"}}))
    without = f"import sys; sys.modules[{lacking!r}] = None; from gateway.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "serve", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert ("gunicorn" in done.stderr) == (lacking == "gunicorn")
