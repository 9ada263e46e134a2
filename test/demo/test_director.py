"""Services as the demo calls them: an answer may be lost, and a request then comes twice."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")

from lifecycle_msgs.msg import State

from dynofa_ros.demo import director as director_module
from dynofa_ros.demo.director import Director
from dynofa_ros.errors import CliError
from dynofa_ros.topics import MANAGER_INPUTS, MONITOR

pytestmark = pytest.mark.live


class Service:
    """A client of a service; ``answers``: to each request in turn, None = lost."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []
        self.pending = 0

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, request: Any) -> Any:
        self.requests.append(request)
        self.pending += 1
        answer = self.answers.pop(0) if self.answers else None
        return SimpleNamespace(done=lambda: answer is not None, result=lambda: answer)

    def remove_pending_request(self, future: Any) -> None:
        self.pending -= 1


@pytest.fixture
def director(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Director]:
    monkeypatch.setattr(director_module, "ASK_AGAIN_S", 0.01)
    monkeypatch.setattr(director_module, "SERVICE_TIMEOUT_S", 0.2)

    def make(**services: Service) -> Director:
        made = Director.__new__(Director)
        made._wait = lambda seconds: None
        made._clients = {f"/demo/camera/{name}": service for name, service in services.items()}
        return made

    return make


CHANGED, REFUSED = SimpleNamespace(success=True), SimpleNamespace(success=False)


def in_state(number: int, label: str) -> Any:
    return SimpleNamespace(current_state=SimpleNamespace(id=number, label=label))


def test_an_answer_that_is_lost_is_asked_for_again(director: Callable[..., Director]) -> None:
    change = Service(None, None, CHANGED)
    director(change_state=change).configure("demo/camera")
    assert len(change.requests) == 3 and change.pending == 1


def test_a_change_that_was_made_before_the_answer_was_lost_counts(director: Callable[..., Director]) -> None:
    change = Service(None, REFUSED)
    state = Service(in_state(State.PRIMARY_STATE_INACTIVE, "inactive"))
    director(change_state=change, get_state=state).configure("demo/camera")
    assert len(state.requests) == 1


def test_a_change_that_fails_is_an_error_that_names_the_state(director: Callable[..., Director]) -> None:
    state = Service(in_state(State.PRIMARY_STATE_UNCONFIGURED, "unconfigured"))
    with pytest.raises(CliError, match="demo/camera could not be changed, it is unconfigured"):
        director(change_state=Service(REFUSED), get_state=state).activate("demo/camera")


def test_a_service_that_never_answers_is_an_error(director: Callable[..., Director]) -> None:
    with pytest.raises(CliError, match=r"/demo/camera/change_state did not answer within 0\.2 s"):
        director(change_state=Service()).activate("demo/camera", active=False)


def test_the_run_waits_for_all_that_the_manager_hears(director: Callable[..., Director]) -> None:
    """What the manager consumes and the recorder does not have could not be replayed."""
    made = director()
    made._apps = ("front",)
    made._phase = SimpleNamespace(get_subscription_count=lambda: 1)
    made.check_alone = lambda own: None  # type: ignore[method-assign]
    heard = {t.of("front") for t in MANAGER_INPUTS if t is not MONITOR}
    for late in sorted(heard):
        made._newest = dict.fromkeys(heard - {late}, b"")
        with pytest.raises(CliError, match=f"missing: {late}$"):
            made.wait_until_recorded(0.0)
    made._newest = dict.fromkeys(heard, b"")
    made.wait_until_recorded(0.0)
