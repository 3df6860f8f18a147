"""The page of a run as text, drawn from its facts alone."""

from retrain_worker.domain.report_request import RunPage
from retrain_worker.report.result import RunResult
from retrain_worker.worker.report import run_page


def page_of(result: RunResult, *, with_charts: bool = True) -> str:
    """Without predictions, and outside the site: no links."""
    wanted = RunPage(
        run=result.run,
        run_dir="/runs/none",
        output_path=str(result.report or "/r/report.html"),
        bayes_auc=result.bayes_auc,
        event={name: str(value) for name, value in result.event.items()},
        engine=result.engine,
    )
    drawn = run_page.drawings(wanted, None, None) if with_charts else None
    return run_page.page(wanted, drawn=drawn)
