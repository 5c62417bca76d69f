"""What is said on a terminal and where there is none."""

import pytest

from fullyconv import progress as progress_module
from fullyconv.progress import Console, Silent, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: `clock[0]` in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def run_steps(console, clock, seconds):
    with console.track("reading features", len(seconds)) as step:
        for passed in seconds:
            clock[0] += passed
            step()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_durations_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text


def test_lines_go_to_standard_error_as_they_are(capsys):
    Console().say("[bold]x[/bold] :smile: runs/1 100% " + "wide " * 60)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "[bold]x[/bold] :smile: runs/1 100% " + "wide " * 60 + "\n")


def test_without_a_terminal_steps_are_plain_lines_with_the_time_left(capsys, clock):
    run_steps(Console(every=10), clock, [4, 4, 4, 4, 4, 4])
    assert capsys.readouterr().err.splitlines() == ["reading features: 3 of 6, 12 s left"]


def test_quick_steps_say_nothing_without_a_terminal(capsys, clock):
    run_steps(Console(every=10), clock, [0.1] * 50)
    assert capsys.readouterr() == ("", "")


def test_the_last_step_needs_no_line(capsys, clock):
    run_steps(Console(every=1), clock, [2, 2])
    assert capsys.readouterr().err.splitlines() == ["reading features: 1 of 2, 2.0 s left"]


def test_on_a_terminal_there_is_a_bar_that_goes_away_and_lines_stay(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    console = Console()
    with console.track("reading features", 2) as step:
        step()
        console.say("a line")
        step()
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading features" in err
    assert "2/2" in err
    assert "a line\n" in err
    assert err.endswith("\x1b[2K")  # The bar's line is erased.


def test_nothing_is_said_where_nobody_listens(capsys):
    silent = Silent()
    silent.say("a line")
    with silent.track("steps", 2) as step:
        step()
    assert capsys.readouterr() == ("", "")
