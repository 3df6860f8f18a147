"""Small values of the domain at their limits: split, actions, pause, printable text, names of models, audit verdict."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain import artifact
from retrain_worker.domain.audit_findings import AuditVerdict, Finding, Severity, judge
from retrain_worker.domain.database_url import canonical, is_postgresql
from retrain_worker.domain.labels import Thresholds, action_of
from retrain_worker.domain.masking import is_secret_name, masked
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.printable import printable, printable_texts
from retrain_worker.domain.quantity import duration_of
from retrain_worker.domain.redis_names import RedisNames, stacks_stream
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestKind, SlotRequestState
from retrain_worker.domain.split_policy import Split, SplitPolicy, Window, split_in_time

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@given(gaps=st.lists(st.floats(0, 1000), min_size=3, max_size=3), embargo=st.floats(0, 500))
def test_the_parts_of_a_split_are_in_order_and_an_embargo_apart(gaps: list[float], embargo: float) -> None:
    validation_at, holdout_at, end = (START + sum(gaps[:count]) * HOUR for count in (1, 2, 3))
    policy = SplitPolicy(embargo_hours=embargo)

    assert split_in_time(
        start=START, validation_at=validation_at, holdout_at=holdout_at, end=end, policy=policy
    ) == Split(
        train=Window(start=START, end=validation_at),
        validation=Window(start=min(validation_at + timedelta(hours=embargo), holdout_at), end=holdout_at),
        holdout=Window(start=min(holdout_at + timedelta(hours=embargo), end), end=end),
    )


def test_an_embargo_of_one_hour_belongs_to_no_part_and_ends_with_a_short_part() -> None:
    def split(*hours: float) -> Split:
        first, second, third = (START + each * HOUR for each in hours)
        return split_in_time(
            start=START, validation_at=first, holdout_at=second, end=third, policy=SplitPolicy(embargo_hours=1.0)
        )

    assert split(10, 20, 30) == Split(
        train=Window(start=START, end=START + 10 * HOUR),
        validation=Window(start=START + 11 * HOUR, end=START + 20 * HOUR),
        holdout=Window(start=START + 21 * HOUR, end=START + 30 * HOUR),
    )
    assert split(0, 0.5, 1) == Split(
        train=Window(start=START, end=START),
        validation=Window(start=START + 0.5 * HOUR, end=START + 0.5 * HOUR),
        holdout=Window(start=START + HOUR, end=START + HOUR),
    )
    for unordered in ((-1, 2, 3), (2, 1, 3), (1, 3, 2)):
        with pytest.raises(AssertionError, match=r"^the boundaries must be in time order$"):
            split(*unordered)


PAUSE = Pause(by="ada", reason="fees", since=START, until=START + HOUR)


def test_a_pause_ends_at_its_instant_or_by_an_operator() -> None:
    assert not PAUSE.is_over(START + HOUR - timedelta(microseconds=1))
    assert PAUSE.is_over(START + HOUR)
    assert PAUSE.message == "promotions are paused until 2026-01-01 01:00 UTC (ada: fees)"

    endless = Pause(by="ada", reason="fees", since=START)
    assert not endless.is_over(START + 10_000 * HOUR)
    assert endless.message == "promotions are paused until `retrain-worker resume` (ada: fees)"


@pytest.mark.parametrize(("text", "duration"), [("90min", 1.5), (" 12 h ", 12.0), ("3d", 72.0), ("0.5d", 12.0)])
def test_a_duration_has_a_unit(text: str, duration: float) -> None:
    assert duration_of(text) == duration * HOUR


@pytest.mark.parametrize("text", ["3", "3w", "-1h", "0h", "0.0d", "", "1h30"])
def test_another_duration_is_rejected(text: str) -> None:
    with pytest.raises(ValueError) as rejected:
        duration_of(text)
    assert str(rejected.value) == f"{text!r} is not a duration like 90min, 12h or 3d"


@pytest.mark.parametrize(
    ("url", "canonical_url"),
    [
        *(
            (f"{scheme}://u:p@h/d?a=b://c", "postgresql+psycopg://u:p@h/d?a=b://c")
            for scheme in ("postgres", "postgresql", "PGSQL", "psql", "postgresql+asyncpg", "postgresql+psycopg2+x")
        ),
        ("sqlite+aiosqlite:////x.db", "sqlite:////x.db"),
        ("SQLite:///x.db", "sqlite:///x.db"),
        ("mysql+pymysql://h/d", "mysql+pymysql://h/d"),
        ("postgres", "postgres"),
        ("sqlite", "sqlite"),
    ],
)
def test_each_spelling_of_a_database_url_has_one_form(url: str, canonical_url: str) -> None:
    assert canonical(url) == canonical_url
    assert is_postgresql(url) is canonical_url.startswith("postgresql+psycopg://u")


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", ""),
        ("?", "?"),
        ("?application_name=a%20b&options=", "?application_name=a%20b&options="),
        ("?ssl=true&a=1", "?sslmode=require&a=1"),
        ("?SSL=true", "?SSL=true"),
        ("?ssl=OFF", "?sslmode=disable"),
        ("?ssl=verify-Full", "?sslmode=verify-Full"),
        ("?server_settings=x&command_timeout=5", ""),
        ("?charset=utf8&a=b%2Fc&d=", "?a=b%2Fc&d="),
        ("?a=1?2&client_encoding=x", "?a=1%3F2"),
    ],
)
def test_the_parameters_of_another_library_are_left_out_or_translated(query: str, kept: str) -> None:
    assert canonical(f"postgres://h/d{query}") == f"postgresql+psycopg://h/d{kept}"
    assert canonical(f"sqlite:///x.db{query}") == f"sqlite:///x.db{query}"


@pytest.mark.parametrize(
    ("probability", "action"), [(0.61, "BUY"), (0.6, "HOLD"), (0.5, "HOLD"), (0.4, "HOLD"), (0.39, "SELL")]
)
def test_an_action_is_taken_beyond_its_threshold(probability: float, action: str) -> None:
    assert action_of(probability, Thresholds()) == action


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Größe — Δ 1", "Größe — Δ 1"),
        ("a\nb\tc\0", r"a\nb\tc\x00"),
        ("é\n—", r"é\n—"),
        ("\u2028\u200b", r"\u2028\u200b"),
        ("\udc80\udcff\udc0a", r"\x80\xff\udc0a"),
        ("\udc7f\udd00", r"\udc7f\udd00"),
        (7, "7"),
    ],
)
def test_invisible_characters_and_foreign_bytes_are_escaped(text: object, line: str) -> None:
    assert printable(text) == line


@given(st.text())
def test_printable_text_is_one_line_and_printing_it_again_changes_nothing(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_every_text_of_a_value_is_made_printable_and_nothing_else_changes() -> None:
    value = {"a\n": ["b\0", ("c\r", 1, None, True)], "d": {"e": 0.5, 2: "f\n"}}

    assert printable_texts(value) == {r"a\n": [r"b\x00", [r"c\r", 1, None, True]], "d": {"e": 0.5, 2: r"f\n"}}


def test_the_files_of_a_model_stand_beside_each_other() -> None:
    model = artifact.model_file(Path("/m"), artifact.version_of("20260110_033000"))

    assert model == Path("/m/patchtst_v20260110_033000.pth")
    assert artifact.checksum_file(model) == Path("/m/patchtst_v20260110_033000.pth.sha256")
    assert artifact.manifest_file(model) == Path("/m/patchtst_v20260110_033000.pth.json")
    assert artifact.checksum_line(model, "ab") == "ab  patchtst_v20260110_033000.pth\n"


@pytest.mark.parametrize(
    ("text", "is_readable"),
    [
        *((text, True) for text in ("patchtst/1", "patchtst/1.0", "patchtst/1.12", artifact.FORMAT)),
        *((text, False) for text in ("patchtst/2", "patchtst/1.", "patchtst/11", "xpatchtst/1", "")),
    ],
)
def test_a_reader_accepts_every_minor_of_its_major(text: str, is_readable: bool) -> None:
    assert artifact.is_readable(text) is is_readable


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [("patchtst_v20260110_033000", True), ("patchtst_v20260110", False), ("patchtst_v20260110_033000x", False)],
)
def test_a_version_of_this_program_has_the_form_of_a_run_id(name: str, is_ours: bool) -> None:
    assert artifact.is_our_version(name) is is_ours


def test_findings_are_ordered_by_weight_and_one_refusal_is_enough() -> None:
    fine, warning, refusal, other = (
        Finding(name=name, severity=severity, message=name)
        for name, severity in (
            ("a", Severity.OK),
            ("b", Severity.WARNING),
            ("c", Severity.REFUSAL),
            ("d", Severity.REFUSAL),
        )
    )

    refused = judge((fine, warning, refusal, other))
    assert refused == AuditVerdict(is_fit=False, findings=(refusal, other, warning, fine))
    assert refused.reasons == ("c", "d")
    accepted = judge((fine, warning))
    assert accepted == AuditVerdict(is_fit=True, findings=(warning, fine))
    assert accepted.reasons == ()
    assert judge(()) == AuditVerdict(is_fit=False, findings=())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@host/0", "redis://user:***@host/0"),
        ("password=a, token: b; API_KEY='c'", "password=***, token: ***; API_KEY='***'"),
        ("run --api-secret abc --level info", "run --api-secret *** --level info"),
        ("nothing secret", "nothing secret"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_names_of_secrets_are_recognised() -> None:
    assert [name for name in ("REDIS_PASS", "API_KEY", "TOKEN", "RUN_ID") if is_secret_name(name)] == [
        "REDIS_PASS",
        "API_KEY",
        "TOKEN",
    ]


@pytest.mark.parametrize(
    ("prefix", "instance", "name", "actual"),
    [
        ("quantum", "", "quantum:stream:model.promoted", "quantum:stream:model.promoted"),
        ("staging", "", "quantum:stream:model.promoted", "staging:stream:model.promoted"),
        ("staging", "", "quantum:dead_letter:x:quantum", "staging:dead_letter:x:quantum"),
        ("staging", "", "quantum:model:patchtst:current", "staging:model:patchtst:current"),
        ("staging", "blue", "quantum:model:patchtst:current", "staging:model:patchtst:blue:current"),
        ("quantum", "blue", "quantum:model:patchtst:current", "quantum:model:patchtst:blue:current"),
        ("staging", "blue", "retraining_workers", "retraining_workers:blue"),
        ("staging", "", "retraining_workers", "retraining_workers"),
        ("staging", "blue", "quantum:positions", "quantum:positions"),
        ("staging", "blue", 7, 7),
    ],
)
def test_a_name_in_redis_has_the_prefix_and_the_instance_of_its_worker(
    prefix: str, instance: str, name: object, actual: object
) -> None:
    assert RedisNames(prefix=prefix, instance=instance).actual(name) == actual


@pytest.mark.parametrize(
    ("actual", "name"),
    [
        ("staging:stream:model.promoted", "quantum:stream:model.promoted"),
        ("quantum:stream:a:stream:b", "quantum:stream:a:stream:b"),
        ("staging:model:x", "staging:model:x"),
    ],
)
def test_a_stream_of_any_prefix_has_one_name_in_the_stack(actual: str, name: str) -> None:
    assert stacks_stream(actual) == name


def test_an_answered_request_is_final_and_waits_no_longer() -> None:
    request = SlotRequest(
        request_id="r",
        kind=SlotRequestKind.ROLLBACK,
        requested_by="anna",
        reason="it loses",
        created_at=START,
        updated_at=START,
        not_before=START,
    )
    assert not request.is_answered

    for state in (SlotRequestState.DONE, SlotRequestState.REFUSED, SlotRequestState.FAILED):
        answered = request.answered(state, "because", at=START + HOUR)
        assert answered == SlotRequest(
            request_id="r",
            kind=SlotRequestKind.ROLLBACK,
            requested_by="anna",
            reason="it loses",
            created_at=START,
            updated_at=START + HOUR,
            state=state,
            answer="because",
        )
        assert answered.is_answered
