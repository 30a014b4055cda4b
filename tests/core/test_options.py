"""The options of a URL: known names, fitting values, and errors that name the one at fault."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from nexus.core.options import BackendSettings, File, Secret, options_of, read_options
from nexus.errors import SettingsError


class Settings(BackendSettings, frozen=True):
    place: str
    user: str = "guest"
    lease_s: float = 10.0
    prefix: str = "nexus"
    ports: tuple[int, ...] = (1,)
    password: Secret | None = None
    cert: File | None = None
    level: Literal["low", "high"] = "low"
    loud: bool = False
    count: int | None = None


def test_options_take_the_types_of_the_settings() -> None:
    found = read_options(Settings, {"place": "here"}, [("lease_s", "2.5"), ("prefix", "p")], "a store")
    assert found == Settings("here", lease_s=2.5, prefix="p")


KNOWN = "known are lease_s, prefix, ports, cert, level, loud, count"


@pytest.mark.parametrize(
    ("option", "value", "message", "hint"),
    [
        ("lease", "1", "unknown option 'lease' of a store", "did you mean 'lease_s'?"),
        ("zzz", "1", "unknown option 'zzz' of a store", KNOWN),
        ("place", "1", "unknown option 'place' of a store", KNOWN),
        ("user", "1", "unknown option 'user' of a store", KNOWN),
        ("lease_s", "soon", "option of a store: ", None),
        ("password", "x", "password stands in the URL of a store", "give it in the environment or in a file"),
    ],
)
def test_what_is_wrong_is_named(option: str, value: str, message: str, hint: str | None) -> None:
    with pytest.raises(SettingsError) as raised:
        read_options(Settings, {"place": "h"}, [(option, value)], "a store", apart=["user"])
    assert raised.value.message.startswith(message)
    assert raised.value.hint == hint


def test_the_options_of_the_url_win_over_those_from_elsewhere() -> None:
    others = {"lease_s": 7.0, "ports": (5,), "password": "hidden", "user": "me"}
    found = read_options(
        Settings, {"place": "h", "user": "you"}, [("ports", "3,4"), ("lease_s", "2")], "a store", others
    )
    assert (found.ports, found.lease_s, found.password, found.user) == ((3, 4), 2.0, "hidden", "you")
    assert "hidden" not in repr(found)


def test_an_option_is_a_field_with_a_default_and_says_what_fits() -> None:
    declared = options_of(Settings)
    assert {name: option.form for name, option in declared.items()} == {
        "user": "a text", "lease_s": "a number", "prefix": "a text", "ports": "a list, each a whole number",
        "password": "a text", "cert": "the name of a file", "level": "one of low, high", "loud": "true or false",
        "count": "a whole number",
    }  # fmt: skip
    assert [name for name, option in declared.items() if option.secret] == ["password"]


@pytest.mark.parametrize(
    ("name", "value", "text_only", "held"),
    [("ports", "3,4", True, (3, 4)), ("ports", 3, False, (3,)), ("ports", [3], False, (3,)), ("lease_s", 3, False, 3.0),
     ("loud", "true", True, True), ("count", "16", True, 16)],
)  # fmt: skip
def test_a_value_is_read_as_its_source_writes_it(name: str, value: object, text_only: bool, held: object) -> None:
    assert options_of(Settings)[name].read(value, text_only=text_only) == held


@pytest.mark.parametrize(("name", "value"), [("count", "16"), ("loud", 2), ("level", "middle"), ("prefix", 5)])
def test_a_value_of_another_type_does_not_fit(name: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        options_of(Settings)[name].read(value, text_only=False)
