"""Locks on open files."""

from fullyconv.locks import locked


def test_a_file_is_locked_by_one_at_a_time(tmp_path):
    path = tmp_path / "lock"
    with path.open("ab") as first:
        assert locked(first.fileno())
        with path.open("ab") as second:
            assert not locked(second.fileno())
    with path.open("ab") as third:
        assert locked(third.fileno())
