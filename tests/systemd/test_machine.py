"""The service on a real systemd, as its operators live with it."""

import json
import os
import re
import time
from collections.abc import Callable
from functools import partial

import pytest

from retrain_worker.adapters.journal_entry import MESSAGE_IDS
from retrain_worker.domain import env_file
from tests.systemd.conftest import QUICK, UNIT, Host
from tests.systemd.machine import SOURCE, VENV

#: seconds; the unit allows 30, the promise is 10
STOP_SECONDS = 10.0
PROMOTION = "SELECT state FROM deployments WHERE kind = 'promote'"


def environment_of(host: Host, pid: str) -> dict[str, str]:
    text = host.shell(f"tr '\\0' '\\n' </proc/{pid}/environ")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_a_run_by_trigger_is_promoted_and_the_engine_is_restarted_with_the_new_path(host: Host) -> None:
    host.systemctl("start", "quantum-ai-engine")
    before = host.show("MainPID", unit="quantum-ai-engine")["MainPID"]
    host.settings(**QUICK)  # the first run, which comes by itself, finds too little
    host.systemctl("start", UNIT)
    assert host.wait_outcome(1) == "REFUSED"
    host.settings()
    host.systemctl("reload", UNIT)
    host.run("retrain-worker", "trigger", "--reason", "new regime")

    assert host.wait_outcome(2) == "PROMOTED", "\n".join(host.messages())
    model = env_file.parse(host.path("/etc/quantum/ai-engine.env").read_bytes())["PATCHTST_MODEL_PATH"]
    # the stand-in follows models by itself as well, so the confirmation may come before the restart
    host.wait(lambda: host.journal("EVENT=engine_restarted"), "the restart of the engine")
    engine = host.show("MainPID", "ActiveState", unit="quantum-ai-engine")
    assert engine["ActiveState"] == "active"
    assert engine["MainPID"] != before
    assert environment_of(host, engine["MainPID"])["PATCHTST_MODEL_PATH"] == model
    assert host.state(PROMOTION) == [("CONFIRMED",)]
    assert any("was restarted with" in said for said in host.messages("EVENT=engine_restarted"))

    (run_id,) = host.state("SELECT run_id FROM runs WHERE outcome = 'PROMOTED'")
    host.wait_message("promoted patchtst_v", "EVENT=run_finished")
    story = host.journal(f"RUN_ID={run_id[0]}")
    assert [entry["EVENT"] for entry in story if "OUTCOME" not in entry] == ["run_started", *["run_progress"] * 5]
    ends = [entry for entry in story if entry.get("MESSAGE_ID") == MESSAGE_IDS["run_promoted"]]
    assert [entry["OUTCOME"] for entry in ends] == ["PROMOTED"], "one canonical line at the end"
    assert host.journal("EVENT=promote_promoted")
    assert {"SECONDS", "MODEL_PATH", "STAGE", "REASONS"} <= set(ends[0])
    assert "@RUN_ID@" not in host.shell(f"journalctl -x --no-pager RUN_ID={run_id[0]}")
    assert f"Run {run_id[0]} has promoted a new model" in host.shell(f"journalctl -x --no-pager RUN_ID={run_id[0]}")
    # the first run, and a kernel without Landlock
    expected = ("not fit to train on", "workers are not confined")
    warnings = [said for said in host.messages("-p", "warning") if not any(part in said for part in expected)]
    assert not warnings
    assert all(entry["SYSLOG_IDENTIFIER"] == "retrain-worker" for entry in host.journal("EVENT=ready"))


def test_the_units_are_as_they_should_be(host: Host) -> None:
    units = [f"{UNIT}.service", "quantum-ai-engine-restart.path", "quantum-ai-engine-restart.service"]
    verified = host.run("systemd-analyze", "verify", *units)
    exposures = exposure_of(host, UNIT)
    host.shell(
        f"mkdir -p /run/systemd/system/{UNIT}.service.d; cp /usr/local/share/doc/retrain-worker/drop-ins/"
        f"unix-sockets.conf /run/systemd/system/{UNIT}.service.d; systemctl daemon-reload"
    )

    assert (verified.stdout, verified.stderr) == ("", "")
    assert exposures <= 0.9
    assert exposure_of(host, UNIT) <= 0.3


def exposure_of(host: Host, unit: str) -> float:
    said = host.shell(f"systemd-analyze security --no-pager {unit}.service | tail -1")
    found = re.search(r"(\d+\.\d) ", said)
    assert found is not None
    return float(found[1])


def test_only_unix_sockets_are_needed_when_there_is_no_network(host: Host) -> None:
    host.shell(
        f"mkdir -p /run/systemd/system/{UNIT}.service.d; cp /usr/local/share/doc/retrain-worker/drop-ins/"
        f"unix-sockets.conf /run/systemd/system/{UNIT}.service.d; systemctl daemon-reload"
    )
    host.shell(
        "mkdir -p /run/systemd/system/redis-server.service.d; printf '[Service]\\nExecStart=\\n"
        "ExecStart=/usr/bin/redis-server --supervised systemd --daemonize no --port 0 "
        "--dir /var/lib/redis --unixsocket /run/redis/redis.sock --unixsocketperm 770\\n' "
        ">/run/systemd/system/redis-server.service.d/socket.conf; systemctl daemon-reload; "
        "systemctl restart redis-server"
    )
    try:
        host.settings(REDIS_URL="unix:///run/redis/redis.sock", **QUICK)
        host.systemctl("start", UNIT)
        assert host.wait_outcome() == "REFUSED"
        host.wait(
            lambda: "retraining.failed" in host.shell("redis-cli -s /run/redis/redis.sock --scan"), "the event in Redis"
        )
    finally:
        host.systemctl("stop", UNIT)
        host.shell(
            "rm -r /run/systemd/system/redis-server.service.d; systemctl daemon-reload; systemctl restart redis-server"
        )


def test_it_trains_and_scores_under_the_whole_sandbox(host: Host) -> None:
    host.settings(MAX_EPOCHS=30, PATIENCE=30)
    host.systemctl("start", UNIT)
    host.wait_status(r"training \d{8}_\d{6}: epoch \d+ of 30, validation log loss \d\.\d+, about \d+ s left")
    worker = host.wait(lambda: host.worker_of("TRAIN"), "its worker")
    limits = host.shell(f"cat /proc/{worker}/status /proc/{worker}/oom_score_adj; ps -o ni=,cls= -p {worker}")

    assert host.wait_outcome() == "PROMOTED", "\n".join(host.messages())
    assert not [said for said in host.messages() if "primitive" in said]
    assert "NoNewPrivs:\t1" in limits
    assert "Seccomp:\t2" in limits
    assert "\n800\n" in limits
    assert limits.split()[-2:] == ["10", "B"]
    assert host.show("OOMPolicy", "NotifyAccess", "KillMode") == {
        "OOMPolicy": "continue",
        "NotifyAccess": "main",
        "KillMode": "mixed",
    }


# long enough that an epoch is surely seen
LASTING = {"MAX_EPOCHS": 60, "PATIENCE": 60, "GATE_BACKTEST_FOLDS": 0}


@pytest.mark.parametrize("stage", ["PULL", "AUDIT", "TRAIN", "GATE", "PROMOTE", "idle"])
def test_it_stops_within_ten_seconds_in_each_phase_and_the_next_start_goes_on(
    host: Host,
    stage: str,
    record_property: Callable[[str, object], None],
) -> None:
    host.settings(**(QUICK if stage == "idle" else LASTING if stage == "TRAIN" else {"MAX_EPOCHS": 12}))
    host.systemctl("start", UNIT)
    if stage == "idle":
        host.wait_outcome()
    elif stage == "TRAIN":
        host.wait_status(r"epoch \d+ of")
    else:
        host.wait_stage(stage)
    stop_in_time(host, stage, record_property)
    if stage not in ("idle", "PROMOTE"):
        assert host.state("SELECT outcome FROM runs") == [("INTERRUPTED",)]
        host.systemctl("start", UNIT)
        host.wait(lambda: any("resumed" in said for said in host.messages()), "the run to go on")
    if stage == "TRAIN":
        host.wait(lambda: host.stage() == "GATE", "the end of the training")
        log = next(host.path("/data/quantum/models/runs").glob("*/train.log")).read_text()
        assert "resumed after epoch" in log


def stop_in_time(host: Host, phase: str, record_property: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    host.systemctl("stop", UNIT)
    seconds = time.monotonic() - began
    record_property("stop_seconds", round(seconds, 2))
    print(f"stop in {phase}: {seconds:.2f} s")

    assert seconds < STOP_SECONDS
    assert host.show("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert host.workers() == []


@pytest.mark.parametrize("stage", ["SHADOW", "PROBATION"])
def test_it_stops_within_ten_seconds_during_a_look_whose_child_is_frozen(
    host: Host,
    stage: str,
    record_property: Callable[[str, object], None],
) -> None:
    host.settings(
        **({"SHADOW_MIN_OUTCOMES": 200} if stage == "SHADOW" else {"PROBATION_HOURS": 48}),
        ENGINE_CONFIRM="none",
        TRIAL_INTERVAL_MIN=1,
    )
    host.systemctl("start", UNIT)
    host.wait_stage(stage)
    worker = host.wait(lambda: host.worker_of(stage), "a trial evaluation")
    host.shell(f"kill -STOP {worker}")
    host.wait_status("is on (trial|probation)")
    stop_in_time(host, f"a look ({stage})", record_property)

    evaluations = f"SELECT json_extract(facts, '$.{stage.lower()}.evaluation') FROM runs"
    assert host.state(evaluations) == [(1,)]
    host.systemctl("start", UNIT)
    host.wait(lambda: host.state(evaluations) == [(2,)], "the look that was broken off")


def test_it_stops_within_ten_seconds_beside_a_redis_that_has_just_frozen(
    host: Host,
    record_property: Callable[[str, object], None],
) -> None:
    host.settings(**QUICK)
    host.systemctl("start", UNIT)
    host.wait_outcome()
    host.wait_status("idle")
    redis = host.show("MainPID", unit="redis-server")["MainPID"]
    host.shell(f"kill -STOP {redis}")
    try:
        stop_in_time(host, "idle, Redis frozen", record_property)
    finally:
        host.shell(f"kill -CONT {redis}")


def test_a_reload_waits_for_its_end_and_fails_where_it_is_refused(host: Host) -> None:
    host.settings(**QUICK)
    host.systemctl("start", UNIT)
    host.wait_outcome()
    pid = host.main_pid()

    host.settings(MIN_SAMPLES="plenty", LABEL="up")
    refused = host.systemctl("reload", UNIT, check=False)
    assert refused.returncode == 1
    assert host.show("ActiveState", "StatusText")["ActiveState"] == "active"
    host.wait(
        lambda: any(
            'MIN_SAMPLES: "plenty"' in said and 'LABEL: "up"' in said
            for said in host.messages("EVENT=reload_rejected", "-p", "err")
        ),
        "why it was refused",
    )

    host.settings(**QUICK, LOGLEVEL="DEBUG", RETRAIN_INTERVAL_H=48)
    host.systemctl("reload", UNIT)
    assert "next run in 47 h" in host.status_text(), "it is in force when systemctl returns"
    host.wait(lambda: host.journal("EVENT=reloaded"), "the line about it")
    assert host.main_pid() == pid
    assert host.show("NRestarts")["NRestarts"] == "0"


def test_reloads_in_each_phase_of_a_run_disturb_nothing(host: Host) -> None:
    host.settings(ENGINE_CONFIRM_TIMEOUT_S=15)
    host.systemctl("start", UNIT)
    for stage in ("PULL", "AUDIT", "TRAIN", "GATE", "PROMOTE"):
        host.wait_stage(stage)
        # a frozen worker keeps the run in its phase, however long the reloads take
        # not one that has yet to execute its program: until then the daemon waits for it (vfork(2))
        workers = [] if stage == "PROMOTE" else [host.wait(partial(host.worker_of, stage), f"the worker of {stage}")]
        signal_all(host, "STOP", workers)
        host.settings(MAX_EPOCHS="many")
        assert host.systemctl("reload", UNIT, check=False).returncode == 1
        host.settings(RETRAIN_INTERVAL_H=48)
        host.systemctl("reload", UNIT)
        signal_all(host, "CONT", workers)

    assert host.wait_outcome() == "PROMOTED", "\n".join(host.messages())
    host.wait_status("next run in 47 h")


def signal_all(host: Host, name: str, pids: list[int]) -> None:
    for pid in pids:
        host.run("kill", f"-{name}", str(pid), check=False)


def test_a_hundred_hangups_are_one_or_two_reloads_and_one_at_birth_does_no_harm(host: Host) -> None:
    host.settings(**QUICK)
    host.systemctl("start", "--no-block", UNIT)
    # its name is another before the service manager's own preparations are over
    host.wait(lambda: host.shell(f"cat /proc/{host.main_pid()}/comm", check=False) == "retrain-worker\n", "Python")
    for _ in range(20):
        host.systemctl("kill", "-s", "HUP", "--kill-whom=main", UNIT)
    host.wait(lambda: host.show("ActiveState")["ActiveState"] == "active", "READY")
    assert host.show("NRestarts")["NRestarts"] == "0"
    host.wait_outcome()
    before = len(host.journal("EVENT=reloaded"))
    host.shell(f"for i in $(seq 100); do kill -HUP {host.main_pid()}; done")
    host.systemctl("reload", UNIT)

    host.wait(lambda: len(host.journal("EVENT=reloaded")) > before, "a line about them")
    assert len(host.journal("EVENT=reloaded")) - before <= 20
    assert host.show("ActiveState")["ActiveState"] == "active"


def test_a_frozen_daemon_is_restarted_and_a_long_training_is_not(host: Host) -> None:
    host.drop_in("WatchdogSec=15", "RestartSec=1")
    host.settings(MAX_EPOCHS=5000, PATIENCE=5000)
    host.systemctl("start", UNIT)
    host.wait_status(r"epoch \d+ of 5000")
    time.sleep(35)  # more than two periods of the watchdog
    host.wait_status(r"epoch \d+ of 5000")
    assert host.show("NRestarts")["NRestarts"] == "0"
    worker = host.wait(lambda: host.worker_of("TRAIN"), "its worker")
    host.shell(f"kill -STOP {host.main_pid()}")
    host.wait(lambda: host.show("NRestarts")["NRestarts"] == "1", "the restart")
    host.wait(lambda: host.show("ActiveState")["ActiveState"] == "active", "READY again")

    host.wait_message("resumed")
    assert host.run("test", "-e", f"/proc/{worker}", check=False).returncode, "no worker is left of the frozen one"
    assert any("Watchdog timeout" in said for said in host.messages("-u", UNIT))
    host.systemctl("stop", UNIT)


def test_a_child_killed_for_memory_leaves_the_daemon_alive(host: Host) -> None:
    host.drop_in("MemoryMax=120M")  # the daemon fits, PyTorch does not
    host.settings(MAX_RETRIES=0)
    host.systemctl("start", UNIT)
    limit = host.shell(
        f"cat /sys/fs/cgroup/memory/system.slice/{UNIT}.service/memory.limit_in_bytes "
        f"/sys/fs/cgroup/system.slice/{UNIT}.service/memory.max 2>/dev/null",
        check=False,
    ).strip()
    if limit != str(120 << 20):
        pytest.skip(f"the memory controller is not ours in here (limit {limit or 'none'})")
    pid = host.main_pid()

    assert host.wait_outcome() == "FAILED"
    assert host.main_pid() == pid
    assert host.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    host.wait_message("memory", "EVENT=run_finished")


def test_events_wait_while_redis_is_away_and_arrive_when_it_is_back(host: Host) -> None:
    host.settings(**QUICK)
    host.systemctl("stop", "redis-server")
    host.systemctl("start", UNIT)
    assert host.show("ActiveState")["ActiveState"] == "active"
    host.wait_outcome()
    host.wait_status(r"idle; next run in .*; no incumbent; last run REFUSED: .*; Redis .*, 2 events waiting")
    host.systemctl("start", "redis-server")
    host.wait(lambda: "retraining.failed" in host.shell("redis-cli --scan", check=False), "the events")

    host.wait(lambda: "waiting" not in host.status_text(), "a status without a complaint")
    host.wait(lambda: host.journal("EVENT=redis_recovered"), "the line about it")
    assert len(host.journal("EVENT=redis_problem")) == 1
    assert len(host.journal("EVENT=redis_recovered")) == 1


def test_after_a_power_cut_in_the_middle_of_a_swap_the_next_boot_goes_on_with_it(host: Host) -> None:
    host.systemctl("enable", UNIT, "quantum-ai-engine-restart.path")
    host.settings(ENGINE_CONFIRM="none")
    # the trigger file is a pipe that nobody reads: the swap comes no further than the env line
    host.shell("runuser -u quantum-retrain -- mkfifo /run/quantum-retraining-worker/engine-restart")
    host.systemctl("start", UNIT)
    host.wait(lambda: host.state(PROMOTION) == [("SWAPPED",)], "the middle of the swap")
    time.sleep(1.0)
    assert host.state(PROMOTION) == [("SWAPPED",)], "it is held there"
    host.machine.power_cut()
    parsed = env_file.parse(host.path("/etc/quantum/ai-engine.env").read_bytes())
    assert host.path(parsed["PATCHTST_MODEL_PATH"]).exists()
    assert (parsed["OTHER"], parsed["PATCHTST_SHADOW_ONLY"]) == ("1", "true")
    host.machine.boot()

    assert host.wait_outcome() == "PROMOTED"
    ((model, found),) = host.state("SELECT model_path, state FROM deployments WHERE kind = 'promote'")
    assert model == parsed["PATCHTST_MODEL_PATH"]
    assert found not in ("INTENDED", "SWAPPED")
    host.wait(lambda: host.state("SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [(0,)], "the events")
    assert host.shell("redis-cli xlen quantum:stream:model.promoted").strip() == "1"
    host.systemctl("disable", UNIT, "quantum-ai-engine-restart.path")


def test_a_password_comes_as_a_credential_and_is_nowhere_to_be_seen(host: Host) -> None:
    host.run("redis-cli", "config", "set", "requirepass", "hunter2")
    credential = host.path("/etc/quantum/retraining-worker.credentials/REDIS_PASSWORD")
    try:
        credential.write_text("hunter2\n")
        host.settings(**QUICK)
        host.systemctl("start", UNIT)
        host.wait_outcome()
        host.wait(
            lambda: "retraining.failed" in host.shell("redis-cli --no-auth-warning -a hunter2 --scan"), "the events"
        )
        assert "hunter2" not in host.shell(f"cat /proc/{host.main_pid()}/environ; systemctl show {UNIT}")
        assert "hunter2" not in json.dumps(host.journal())
        assert host.run("retrain-worker", "trigger", check=False).returncode == 0, "root reads the credential"
        assert "redis://localhost:6379/0 answers" in host.run("retrain-worker", "check", check=False).stdout
    finally:
        host.systemctl("stop", UNIT)
        credential.unlink()
        host.run("redis-cli", "--no-auth-warning", "-a", "hunter2", "config", "set", "requirepass", "")


def test_wrong_settings_and_a_wrong_database_fail_the_start_where_an_operator_sees_it(host: Host) -> None:
    host.settings(LABEL="up")
    assert host.systemctl("start", UNIT, check=False).returncode == 1
    assert host.show("ActiveState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed",
        "ExecMainStatus": "78",
        "NRestarts": "0",
    }
    assert any('LABEL: "up"' in said for said in host.messages())
    assert re.match('ended: LABEL: "up" is not one of outcome, direction', host.status_text())
    assert "has failed" in host.shell("retrain-worker status", check=False)
    assert 'LABEL: "up"' in host.shell(f"journalctl -u {UNIT} -p err -o cat")
    host.systemctl("reset-failed", UNIT)
    host.settings(DB_PATH="/etc/passwd")
    assert host.systemctl("start", UNIT, check=False).returncode == 1
    assert any("not an SQLite database" in said for said in host.messages())


def test_a_second_sigterm_ends_it_at_once(host: Host) -> None:
    host.drop_in("RestartSec=300")
    host.settings(MAX_EPOCHS=5000, PATIENCE=5000)
    host.systemctl("start", UNIT)
    host.wait_status(r"epoch \d+ of")
    worker = host.wait(lambda: host.worker_of("TRAIN"), "its worker")
    host.shell(f"kill -STOP {worker}")  # it cannot write its checkpoint, and would have five seconds for it
    pid = host.main_pid()
    host.shell(f"kill -TERM {pid}")
    host.wait_status("stopping; before: training")
    host.shell(f"kill -TERM {pid}")
    host.wait(lambda: host.main_pid() != pid, "the end")

    assert host.show("ExecMainStatus")["ExecMainStatus"] == "1", "not the end of an orderly stop"
    assert "stopped" not in host.messages()
    host.systemctl("stop", UNIT)
    assert host.workers() == []


def test_a_journal_that_does_not_read_does_not_stop_the_daemon(host: Host) -> None:
    host.drop_in("WatchdogSec=10")
    host.settings(LOGLEVEL="DEBUG", RETRAIN_INTERVAL_H=0.001, **QUICK)
    host.systemctl("start", UNIT)
    host.wait_outcome()
    journald = host.show("MainPID", unit="systemd-journald")["MainPID"]
    host.shell(f"kill -STOP {journald}")
    try:
        host.shell(f"for i in $(seq 300); do kill -HUP {host.main_pid()}; sleep 0.03; done")
        num = len(host.outcomes())
        host.wait(lambda: len(host.outcomes()) > num, "another run")
    finally:
        host.shell(f"kill -CONT {journald}")
    assert host.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_the_root_oneshot_believes_nobody(host: Host) -> None:
    host.systemctl("start", "quantum-ai-engine")
    before = host.show("MainPID", unit="quantum-ai-engine")["MainPID"]
    env = host.path("/etc/quantum/ai-engine.env")
    for line in (
        "PATCHTST_MODEL_PATH=/tmp/evil.pth\n",
        "LD_PRELOAD=/tmp/evil.so\n",
        "PATCHTST_MODEL_PATH=/opt/quantum/ai_engine/models/patchtst_v20260101_000000.pth\n",
    ):
        with env.open("w") as file:
            file.write(f"PATCHTST_SHADOW_ONLY=true\n{line}")
        assert host.systemctl("start", "quantum-ai-engine-restart.service", check=False).returncode == 1
        host.systemctl("reset-failed")
    assert len(host.journal("EVENT=engine_not_restarted")) == 3
    assert host.show("MainPID", unit="quantum-ai-engine")["MainPID"] == before


def test_a_removed_env_line_causes_a_restart(host: Host) -> None:
    host.systemctl("start", "quantum-ai-engine")
    before = host.show("MainPID", unit="quantum-ai-engine")["MainPID"]
    host.path("/etc/quantum/ai-engine.env").write_text("PATCHTST_SHADOW_ONLY=true\n")
    host.systemctl("start", "quantum-ai-engine-restart.service")
    assert host.show("MainPID", unit="quantum-ai-engine")["MainPID"] != before


def test_a_library_in_the_env_file_reaches_no_engine(host: Host) -> None:
    with host.path("/etc/quantum/ai-engine.env").open("a") as file:
        file.write("LD_PRELOAD=/tmp/evil.so\nPYTHONPATH=/tmp\n")
    host.systemctl("start", "quantum-ai-engine")
    found = environment_of(host, host.show("MainPID", unit="quantum-ai-engine")["MainPID"])

    assert found["OTHER"] == "1"
    assert not {"LD_PRELOAD", "PYTHONPATH"} & set(found)


AWKWARD = (
    b'A=1\n# B=2\n; C=3\n\nD = spaced \nE="quo ted"\nF=\'sin"gle\'\nG=back\\\nslash\nH=a\\ b\nA=again\n'
    b'export I=1\nJ=x # no comment\nK="two\nlines"\nL=caf\xc3\xa9\nM=\nN=$HOME %h\nO="esc \\" \\\\ \\$"\nP=last'
)


def test_our_parser_reads_an_env_file_as_systemd_does(host: Host) -> None:
    host.path("/root/awkward.env").write_bytes(AWKWARD)
    plain = host.shell("systemd-run -q --pipe --wait env -0")
    shown = host.shell("systemd-run -q --pipe --wait -p EnvironmentFile=/root/awkward.env env -0")
    theirs = dict(each.split("=", 1) for each in shown.split("\0") if "=" in each)
    names = {each.split("=", 1)[0] for each in plain.split("\0")} | {"INVOCATION_ID", "SYSTEMD_EXEC_PID"}

    assert env_file.parse(AWKWARD) == {name: value for name, value in theirs.items() if name not in names}


def test_an_upgrade_in_place_is_one_restart_and_keeps_what_the_operator_wrote(host: Host) -> None:
    host.settings(**QUICK)
    written = host.path("/etc/quantum/retraining-worker.env").read_bytes()
    host.systemctl("start", UNIT)
    host.wait_outcome()
    before = host.main_pid()
    host.machine.make("install")

    host.wait(lambda: host.main_pid() not in (0, before), "the restart")
    assert host.path("/etc/quantum/retraining-worker.env").read_bytes() == written
    host.wait(lambda: len(host.journal("EVENT=ready")) == 2, "READY for the second time")
    assert host.outcomes() == ["REFUSED"], "a restart is no reason to train"


def test_files_go_where_a_packager_wants_them(host: Host) -> None:
    host.run("make", "-C", SOURCE, "install", "DESTDIR=/run/package", "PREFIX=/usr")
    found = host.shell("cd /run/package && find . -type f -o -type l | sort").split()

    assert "./usr/lib/systemd/system/quantum-retraining-worker.service" in found
    assert not any("venvs" in path for path in found)
    host.run("make", "-C", SOURCE, "uninstall", "DESTDIR=/run/package", "PREFIX=/usr")
    assert host.shell("cd /run/package && find . -type f -o -type l") == ""


def test_an_uninstall_leaves_what_belongs_to_the_operator_and_the_debian_package_takes_over(host: Host) -> None:
    package = host.machine.build_package()
    host.settings(**QUICK)
    host.systemctl("start", UNIT)
    host.wait(host.stage, "a run")
    host.machine.make("uninstall")
    assert host.systemctl("is-active", UNIT, check=False).stdout.strip() in ("inactive", "unknown")
    assert not host.path(VENV).exists()
    assert not os.path.lexists(host.path("/usr/local/bin/retrain-worker"))
    assert host.path("/var/lib/quantum-retraining-worker/state.db").exists()
    written = host.path("/etc/quantum/retraining-worker.env").read_bytes()

    host.machine.prepare_environment()
    host.machine.offline("dpkg", "--force-confold", "--install", package)
    assert host.path("/etc/quantum/retraining-worker.env").read_bytes() == written
    assert host.show("FragmentPath")["FragmentPath"] in (
        f"/lib/systemd/system/{UNIT}.service",
        f"/usr/lib/systemd/system/{UNIT}.service",
    )
    host.systemctl("start", UNIT)
    assert host.wait_outcome() == "REFUSED"
    assert host.run("systemd-analyze", "verify", f"{UNIT}.service").stderr == ""

    host.run("dpkg", "--remove", "retrain-worker")
    assert not host.path(VENV).exists()
    assert host.systemctl("is-active", UNIT, check=False).stdout.strip() in ("inactive", "unknown")
