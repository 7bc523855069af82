"""The quick part of ``make chaos``."""

import pytest

from .chaos.clients import disconnects
from .chaos.traffic import Figures
from .chaos.upstreams import cuts, one_of_two, outage


async def test_C_343_no_stream_that_was_cut_short_looks_complete_to_the_sdk() -> None:
    figures = Figures()
    await cuts(figures)
    assert not figures.failed


async def test_clients_do_not_notice_that_one_of_two_upstreams_fails(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures()
    await one_of_two(figures, 50, 50)
    assert not figures.failed, capsys.readouterr().out


async def test_every_client_that_leaves_has_its_row_and_its_upstream_is_cancelled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = Figures()
    await disconnects(figures, 10)
    assert not figures.failed, capsys.readouterr().out


async def test_a_full_outage_is_told_at_once_and_probed_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures()
    await outage(figures, 50, 3)
    out = capsys.readouterr().out
    assert float(out.rpartition("ms, ")[2].split()[0]) <= 4, out
