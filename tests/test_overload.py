"""Three times too much of every tier over HTTP, for seconds: ``make overload`` does it for minutes."""

from .acceptance_overload import Promised, overload
from .chaos.traffic import Figures


async def test_C_479_three_times_too_much_at_two_replicas() -> None:
    figures = Figures()
    await overload(
        figures,
        replicas=2,
        seconds=7,
        capacity=20,
        service=0.3,
        wait_default=3,
        flex_wait=3,
        promised=Promised(share=0.6, good=0.6, progress=0.005),
    )
    assert not figures.failed
