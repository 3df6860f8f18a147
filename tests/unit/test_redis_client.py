import pytest
from redis.exceptions import ResponseError

from retrain_worker.domain.connection_url import shown
from retrain_worker.errors import SettingsError
from retrain_worker.redis_client import connect, problem_of, where_is

PASSWORD = "s3cret-word"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@host:6379/1",
        f"rediss://user:{PASSWORD}@host",
        f"unix://u:{PASSWORD}@/run/redis.sock?db=2",
    ],
)
def test_no_text_about_a_server_holds_its_password(url: str) -> None:
    client = connect(url)

    problem = problem_of(ResponseError(f"ERR something about {PASSWORD}"), client, key="k")

    assert PASSWORD not in problem.message + where_is(client) + shown(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@host:port",
        f"http://:{PASSWORD}@host",
        f":{PASSWORD}@",
        f"redis:/:{PASSWORD}@host",
        f"redis:{PASSWORD}@host",
        "",
    ],
)
def test_a_url_that_cannot_be_read_is_a_settings_error_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        connect(url)

    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_library_does_not_retry_and_every_call_has_a_timeout() -> None:
    options = connect("redis://host").connection_pool.connection_kwargs

    assert options["retry"].get_retries() == 0
    assert 0 < options["socket_connect_timeout"] <= options["socket_timeout"] < 10


def test_a_server_is_named_by_its_url() -> None:
    assert where_is(connect("redis://host")) == "redis://host:6379/0"
