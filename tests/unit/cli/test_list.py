"""The table of containers, as runc prints it."""

from __future__ import annotations

from runtime.cli import list as list_


def test_an_empty_table_is_its_header() -> None:
    # the bytes of `runc list` where there is no container
    assert list_.table([["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]]) == (
        "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
    )


def test_columns_grow_with_their_words() -> None:
    text = list_.table([["ID", "PID", "OWNER"], ["a-long-container-id", "1", "root"]])
    assert text == "ID                    PID         OWNER\na-long-container-id   1           root\n"


def test_a_word_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in list_.table([["ID", "OWNER"], ["\x1b[2J", "x"]])


def test_a_broken_entry_is_an_entry() -> None:
    found = list_._entry({"id": "web", "error": "state.json: garbage"})
    assert (found["id"], found["status"], found["pid"], found["error"]) == ("web", "unknown", 0, "state.json: garbage")


def test_an_owner_without_a_name() -> None:
    assert list_._user(0) == "root"
    assert list_._user(123456789) == "#123456789"
