"""The pages in a real browser: accessible, light and dark, on a phone and on paper; nothing of a row is executed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run
from retrain_worker.domain.report_request import ComparisonPage, IndexPage, ReportRequest, RunPage
from retrain_worker.report.indexed_run import indexed
from retrain_worker.worker import predictions_file
from retrain_worker.worker.predictions_file import FeatureDistribution, Predictions, PredictionsInfo
from retrain_worker.worker.report.write import write
from tests.known import known
from tests.unit.test_report import AT, HOSTILE, promoted, refused, weak

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
PAGES = ("report", "compare", "index")
MICROSECONDS = 1_000_000

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
    # playwright's event loop, and pytest's warnings as errors
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def predictions(count: int = 840) -> Predictions:
    """Of a skilful candidate, a weaker incumbent and one fold, with a symbol that is no symbol."""
    random = np.random.default_rng(1)
    truth = random.normal(0.3, 1.5, count)
    labels = (random.random(count) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    at = pl.Series(int(AT.timestamp()) * MICROSECONDS + np.arange(count) * 600 * MICROSECONDS).cast(
        pl.Datetime("us", "UTC")
    )
    holdout = pl.DataFrame(
        {
            "part": ["holdout"] * count,
            "id": np.arange(count),
            "symbol": random.choice(np.array(["BTCUSDT", "ETHUSDT", HOSTILE, "=1+1", "$x$"]), count),
            "decided_at": at,
            "known_at": at + timedelta(hours=1),
            "label": labels,
            "pnl": np.where(labels == 1, 1.0, -1.0) + random.normal(0, 0.3, count),
            "candidate": 1 / (1 + np.exp(-truth - random.normal(0, 0.5, count))),
            "incumbent": 1 / (1 + np.exp(-truth - random.normal(0, 3.0, count))),
        }
    )
    fold = holdout.with_columns(part=pl.lit("fold 1"), incumbent=pl.lit(None, dtype=pl.Float64))
    features = tuple(
        FeatureDistribution(name=name, edges=(0.0, 0.5, 1.0), now=(3, 4), before=(30, 20)) for name in ("rsi", HOSTILE)
    )
    info = PredictionsInfo(features=features, reference_run="20260109_033000", versions={"Python": "3.11"})
    return Predictions(rows=pl.concat([holdout, fold]), info=info)


def deployment(run: Run, kind: DeploymentKind) -> Deployment:
    return Deployment(
        deployment_id=run.run_id,
        run_id=run.run_id,
        kind=kind,
        version=f"patchtst_v{run.run_id}",
        model_path="/m/model.pth",
        sha256="a" * 64,
        size_bytes=1,
        previous_version=None,
        previous_model_path=None,
        state=DeploymentState.CONFIRMED,
        created_at=run.created_at,
        updated_at=run.created_at,
        requested_by="once",
        reason="a test",
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, the newer one with symbols and reasons that attack the page, their comparison, and the index."""
    root = tmp_path_factory.mktemp("runs")
    before = replace(refused(weak("skill")).run, run_id="20260109_033000", created_at=AT - timedelta(days=1))
    hostile = promoted(symbols={HOSTILE: 3, "BTCUSDT": 1232}).run
    after = replace(hostile, reasons=(HOSTILE,), requested_by=HOSTILE, finished_at=AT)
    for run in (before, after):
        (root / run.run_id).mkdir()
        predictions_file.save(predictions(), root / run.run_id)
    home = root / after.run_id
    (root / "index").mkdir()
    lines = [indexed(run, has_page=True, has_comparison=run is after) for run in (after, before)]
    older = [
        replace(
            lines[1],
            run_id=f"2026010{day}_033000",
            created_at=AT - timedelta(days=10 - day),
            outcome=outcome,
            has_page=False,
        )
        for day, outcome in ((8, Outcome.ROLLED_BACK), (7, Outcome.SKIPPED), (6, None))
    ]
    write(
        ReportRequest(
            runs=tuple(
                RunPage(
                    run=run,
                    run_dir=str(root / run.run_id),
                    output_path=str(root / run.run_id / "report.html"),
                    is_in_site=True,
                    previous_run_id=before.run_id if run is after else "",
                    event={HOSTILE: HOSTILE},
                    bayes_auc=0.828,
                )
                for run in (before, after)
            ),
            comparisons=(
                ComparisonPage(
                    runs=(before, after),
                    run_dirs=(str(root / before.run_id), str(home)),
                    output_path=str(home / "compare.html"),
                    is_in_site=True,
                ),
            ),
            index=IndexPage(
                runs=(*lines, *older),
                deployments=(deployment(before, DeploymentKind.EXTERNAL), deployment(after, DeploymentKind.PROMOTE)),
                at=AT + timedelta(hours=3),
                output_path=str(root / "index/index.html"),
            ),
        )
    )
    return root


def path_of(site: Path, name: str) -> Path:
    return site / "index/index.html" if name == "index" else site / "20260110_033000" / f"{name}.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


Opens = Callable[..., Page]


@pytest.fixture
def opens(browser: Browser, site: Path) -> Iterator[Opens]:
    """Open a page; what it logs to the console and throws is in `page.problems`."""
    contexts = []

    def opened(name: str, *, scheme: Any = "light", width: int = 1280) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.goto(path_of(site, name).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(opens: Opens, name: str, scheme: str) -> None:
    page = opens(name, scheme=scheme)
    page.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true })")
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run()")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"test-{name}-{scheme}.png", full_page=True)

    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]] == []
    assert len(found["passes"]) > 15


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_horizontal_scrolling(opens: Opens, name: str) -> None:
    page = opens(name, width=390)
    page.screenshot(path=SCREENSHOTS / f"test-{name}-phone.png", full_page=True)

    assert page.evaluate("() => document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("name", PAGES)
def test_no_script_but_that_of_the_index_runs_and_nothing_is_fetched(
    browser: Browser, site: Path, tmp_path: Path, name: str
) -> None:
    attack = "<script>document.title = 'attacked'</script><img src=https://example.org/ onerror=\"document.title = 1\">"
    copy = tmp_path / f"{name}.html"
    copy.write_text(path_of(site, name).read_text().replace("<main>", f"<main>{attack}", 1))
    page = browser.new_page()
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text))
    page.goto(copy.as_uri())
    page.wait_for_timeout(200)
    title = page.title()
    page.close()

    assert title not in ("attacked", "1")
    assert [text for text in blocked if "Content Security Policy" not in text] == []
    assert len(blocked) >= 2, blocked


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_text_and_a_page_is_small(opens: Opens, site: Path, name: str) -> None:
    page = opens(name)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.reload()

    assert page.locator("img").count() == 0
    assert page.locator("script").count() == (1 if name == "index" else 0)
    assert "<script>alert('x')" in page.locator("body").inner_text()
    assert problems == []
    assert path_of(site, name).stat().st_size < 1_000_000


def test_every_chart_has_axis_titles_and_a_text_alternative(opens: Opens) -> None:
    page = opens("report")
    charts = page.locator("figure")

    titles = charts.locator("h3").all_inner_texts()
    assert {
        "ROC",
        "Precision and recall",
        "Reliability",
        "P(WIN) by outcome",
        "Learning curves",
        "AUC by symbol",
        "AUC by backtest fold",
        "Cumulative hits",
        "Features now and in the last promoted run",
        "Outcomes and P&L by decile",
    } <= set(titles)
    assert all(svg.get_attribute("aria-label") for svg in page.locator("svg").all())
    texts = " ".join(charts.locator("svg text").all_text_contents())
    for axis in ("false positive rate", "recall of WIN", "share of WIN in the rows", "loss (nats per row)", "epoch"):
        assert axis in texts, axis


def test_a_chart_takes_its_colours_from_the_page(opens: Opens) -> None:
    def colours(scheme: str) -> set[str]:
        script = "() => [...document.querySelectorAll('figure svg path')].map(each => getComputedStyle(each).stroke)"
        return set(opens("report", scheme=scheme).evaluate(script))

    assert {"rgb(29, 95, 196)", "rgb(168, 79, 0)"} <= colours("light")
    assert {"rgb(127, 178, 255)", "rgb(242, 167, 102)"} <= colours("dark")


@pytest.mark.parametrize("name", PAGES)
def test_on_paper_no_card_is_cut_and_the_colours_are_light(opens: Opens, name: str) -> None:
    page = opens(name, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    paper = page.pdf(path=SCREENSHOTS / f"test-{name}.pdf", format="A4")
    cut = page.evaluate(
        "() => [...document.querySelectorAll('.verdict, .tile, .card, figure')]"
        ".filter(each => getComputedStyle(each).breakInside !== 'avoid').length"
    )
    height = page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('.card, figure')].map(each => each.offsetHeight))"
    )

    assert paper.startswith(b"%PDF")
    assert cut == 0
    assert height < 1000, "higher than a page of paper, it would be cut whatever the style sheet says"
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_table_of_runs_sorts_by_number_and_by_text_and_keeps_missing_values_last(opens: Opens) -> None:
    page = opens("index")

    def column(number: int) -> list[str]:
        return page.locator(f"table.sortable tbody tr > :nth-child({number})").all_inner_texts()

    assert column(1)[0].startswith("2026-01-10")
    page.get_by_role("button", name="AUC", exact=True).click()
    falling = column(3)
    page.get_by_role("button", name="AUC", exact=True).click()
    rising = column(3)
    page.get_by_role("button", name="outcome").click()

    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert column(2) == sorted(column(2), key=lambda text: text[2:], reverse=True)
    assert page.locator("th[aria-sort]").count() == 1


def test_links_lead_from_the_index_to_the_run_its_comparison_and_its_predictions(opens: Opens, site: Path) -> None:
    page = opens("index")
    page.get_by_role("link", name="compare run 20260110_033000").click()
    assert page.get_by_role("heading", name="Two runs side by side").is_visible()
    page.get_by_role("link", name="Run 20260110_033000").click()
    assert "PROMOTED" in page.get_by_role("heading", level=1).inner_text()
    for name in ("Predictions (CSV)", "Predictions (Parquet)"):
        href = known(page.get_by_role("link", name=name).get_attribute("href"))
        assert (site / "20260110_033000" / href).stat().st_size > 1000
    page.get_by_role("link", name="All runs").click()
    assert page.get_by_role("heading", name="All runs").is_visible()


def test_the_csv_file_holds_every_prediction_and_no_formula(site: Path) -> None:
    rows = pl.read_csv(site / "20260110_033000/predictions.csv")

    assert rows.height == predictions().rows.height
    assert "'=1+1" in set(rows["symbol"])
    assert not any(re.match(r"[=+\-@]", symbol) for symbol in rows["symbol"])
    assert rows["decided_at"][0] == "2026-01-10T03:30:00.000000Z"
