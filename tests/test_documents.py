"""What is generated from the code is what is committed, and the documents' examples work."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import yaml

from config import parse
from gateway.deployments import routes

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SECRETS = {"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-y", "MY_KEY": "sk-sl-0123456789abcdef"}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date() -> None:
    for path, text in generator().FILES.items():
        assert path.read_text() == text(), f"{path.name}: run `make generated`"


def test_the_example_follows_the_schema_for_editors() -> None:
    schema = yaml.safe_load((ROOT / "config" / "schema.json").read_text())
    example = yaml.safe_load((ROOT / "config" / "example.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(example)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**example, "serve": {}})


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_s_smallest_file_is_a_configuration() -> None:
    found = re.search(r"```yaml[^\n]*\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    assert set(parse(found[1], SECRETS).models) == {"fast"}


def test_the_readme_s_tree_names_every_package() -> None:
    text = (ROOT / "README.md").read_text()
    packages = {p.parent.name for p in (ROOT / "gateway").glob("*/__init__.py")}
    assert {name for name in packages if f"{name}/" not in text} == set()


def test_every_page_is_in_the_site_s_navigation_and_the_index() -> None:
    nav = (ROOT / "docs" / "site" / "mkdocs.yml").read_text()
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {p for p in pages if p not in nav or (f"({p})" not in index)} == set()


def test_every_example_of_the_routing_page_is_a_configuration() -> None:
    providers = {name: {"adapter": name, "api_key": "x"} for name in ("openai", "anthropic")}
    providers["azure"] = {"adapter": "azure", "api_key": "x", "base_url": "https://x.example"}
    providers["in-house"] = {"adapter": "vllm"}
    examples = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs" / "routing.md").read_text(), re.DOTALL)
    assert len(examples) >= 9
    for text in examples:
        assert routes(parse(yaml.safe_dump({"providers": providers, **yaml.safe_load(text)}), SECRETS)) is not None


def test_the_quickstart_s_file_is_a_configuration() -> None:
    found = re.search(r"```yaml[^\n]*\n(.+?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)
    assert found is not None
    secrets = {**SECRETS, "SLUICE_ADMIN_KEY": "a" * 32, "SLUICE_PEPPER": "p" * 32}
    assert set(parse(found[1], secrets).teams) == {"research"}


def test_every_path_of_the_admin_api_that_a_page_names_exists() -> None:
    operations = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    named = re.compile(r"(?:\b(GET|POST|PATCH|PUT|DELETE) )?(/admin/v1(?:/(?:\w+(?:\.\w+)*|\{[^}]*\}))+)")
    found = [(page.name, *match) for page in PAGES for match in named.findall(page.read_text())]
    assert len(found) > 50
    for page, method, path in found:
        known = operations.get(re.sub(r"\{[^}]*\}", "{id}", path))
        assert known is not None, f"{page}: {path}"
        assert not method or method.lower() in known, f"{page}: {method} {path}"


def test_every_metric_that_a_page_names_exists() -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    for page in PAGES:
        for name in re.findall(r"`((?:sluice|gen_ai_server|gen_ai_client)_[a-z_]+)[`{]", page.read_text()):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in known, f"{page.name}: {name}"
