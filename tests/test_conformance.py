"""The committed conformance table is whole, honest and not older than the tests it names."""

from .conformance import SECTIONS, TABLE, Items, Recorder, items_of, read_items, render, rows, statuses, written_tests

ITEMS = read_items()
WRITTEN = written_tests()


def test_the_table_lists_every_item_with_its_subject() -> None:
    table = rows(TABLE.read_text())
    assert {item: row["subject"] for item, row in table.items()} == ITEMS.subjects
    assert list(table) == sorted(table)


def test_the_table_tells_every_decision() -> None:
    text = TABLE.read_text()
    for item, decision in ITEMS.decisions.items():
        assert item in ITEMS.subjects
        assert decision.kind in {"decision", "deviation"}
        assert f"- **{item}** ({decision.kind}): {decision.text}" in text


def test_the_table_names_tests_that_exist() -> None:
    for item, row in rows(TABLE.read_text()).items():
        assert row["status"] in {"proven", "deviation", "open"}, item
        assert bool(row["files"]) == (row["status"] != "open"), item
        written = {test.partition("::")[0] for test in WRITTEN[item]}
        assert {f"tests/{file}" for file in row["files"]} <= written, item


def test_every_item_is_proven_or_a_deviation() -> None:
    assert set(ITEMS.subjects) - set(WRITTEN) == set()
    assert {item for item, row in rows(TABLE.read_text()).items() if row["status"] == "open"} == set()


def test_no_test_carries_an_unknown_item() -> None:
    assert set(WRITTEN) <= set(ITEMS.subjects)


def test_every_section_begins_at_an_item() -> None:
    assert {f"C-{number:03}" for number in SECTIONS} <= set(ITEMS.subjects)


def test_a_name_may_carry_several_items() -> None:
    assert items_of("test_C_110_369_temperature") == ["C-110", "C-369"]
    assert items_of("test_C_003_C_004_unknown_paths") == ["C-003", "C-004"]
    assert items_of("test_C_5_x") == items_of("test_x_C_110_y") == []


def test_one_failure_outweighs_all_successes() -> None:
    items = Items({"C-001": "a", "C-002": "b", "C-003": "c"}, {})
    outcomes = {"t.py::test_C_001_x": "passed", "t.py::test_C_001_002_y": "failed", "t.py::test_C_003_z": "skipped"}
    found = statuses(items, outcomes)
    assert {item: status for item, (status, _) in found.items()} == {
        "C-001": "failing",
        "C-002": "failing",
        "C-003": "open",
    }
    assert "| C-001 | a | failing | t.py (2) |" in render(items, found)


def test_the_recorder_keeps_the_worst_outcome() -> None:
    class Report:
        def __init__(self, nodeid: str, when: str, outcome: str) -> None:
            self.nodeid, self.when, self.outcome = nodeid, when, outcome

    recorder = Recorder()
    for case, when, outcome in (
        ("a", "call", "passed"),
        ("b", "call", "failed"),
        ("c", "call", "passed"),
        ("c", "setup", "passed"),
    ):
        recorder.pytest_runtest_logreport(Report(f"tests/t.py::test_C_001_x[{case}]", when, outcome))  # type: ignore[arg-type]
    recorder.pytest_runtest_logreport(Report("tests/t.py::test_C_002_y", "setup", "skipped"))  # type: ignore[arg-type]
    recorder.pytest_runtest_logreport(Report("tests/t.py::test_other", "call", "failed"))  # type: ignore[arg-type]
    assert recorder.outcomes == {"tests/t.py::test_C_001_x": "failed", "tests/t.py::test_C_002_y": "skipped"}
