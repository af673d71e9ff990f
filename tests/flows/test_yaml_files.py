"""Whatever stands in a campaign or settings file is read, or refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.campaign import load_campaign, parse_campaign
from aqvolt_flows.errors import ConfigError
from aqvolt_flows.settings import load_settings

# ruff: noqa: PT017 - most inputs are right, and no error is right, too

GOOD = (Path(__file__).parents[1] / "integration" / "mini.yaml").read_text()
SETTINGS = "database: aqvolt\ncampaign: demo\ntimeout_s: 10.0\ndevice: cpu\njob_packages: [a, b]\n"
PIECES = st.sampled_from(
    [
        *(
            "!!int x",
            "!!float y",
            "!!python/object:os.system",
            "1: 2",
            "? [a]\n: b",
            "&a [*a]",
            "*a",
            "{",
            "]",
            "\t",
            "\0",
        ),
        *(".nan", ".inf", "-.inf", "1e400", "9" * 40, "!!binary a", "!!timestamp 9999-99-99", "0x", "1e5", "[" * 60),
        *("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), '"\\0"', '"\\ud800"', "<<: [1]", "---\n", "é"),
        *("%YAML 9.9\n---", "- ", ": "),
    ]
)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A good file in which something was cut out or put in, several times."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        end = draw(st.integers(at, min(len(text), at + 30)))
        text = text[:at] + draw(PIECES | st.text(max_size=5)) + text[end:]
    return text


@settings(max_examples=700, deadline=None)
@given(text=mutated(GOOD))
def test_a_campaign_is_read_or_refused_with_a_sentence(text):
    try:
        parse_campaign(text, "campaign.yaml")
    except ConfigError as error:
        assert str(error).startswith("campaign.yaml")
        assert len(str(error)) < 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@settings(max_examples=700, deadline=None)
@given(text=mutated(SETTINGS), broken=st.sampled_from([b"", b"\xff\xfe", b"\x80"]))
def test_settings_are_read_or_refused_with_a_sentence(folder, text, broken):
    file = folder / "settings.yaml"
    file.write_bytes(broken + text.encode("utf-8", "surrogatepass"))
    try:
        load_settings(file)
    except ConfigError as error:
        assert str(file) in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfename: x", "byte 0 is no UTF-8; save it as UTF-8"),
        (b"name: !!int x", "is not YAML"),
        (b"1: 2", "has the key 1, which is no text"),
        (b"name: a\nx: {1: 2}", "x has the key 1"),
        (b"a: " + b"[" * 2000, "nested too deep|is not YAML"),
        (b"a: " + b"{a: " * 60 + b"1" + b"}" * 60, "nested too deep"),
        (b'name: "\\0"', "holds a character that no text may hold"),
        (b"x: .nan", "x is nan, no finite number"),
        (b"x: [1, -.inf]", "x.1 is -inf, no finite number"),
        (b"x: " + b"9" * 30, "x is a number beyond 64 bits"),
        (b"- a", "holds a list"),
        (b"a: &b [*b]", "file.yaml: "),
    ],
)
@pytest.mark.parametrize("load", [load_campaign, load_settings])
def test_what_used_to_be_a_traceback(tmp_path, load, text, said):
    file = tmp_path / "file.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=said):
        load(file)


@pytest.mark.parametrize("symbol", ["1e5", "Xx", "X", "li", ""])
def test_an_element_is_one(symbol):
    text = f"name: a\ncandidates:\n  exclude_elements: ['{symbol}']\n"
    with pytest.raises(ConfigError, match="expected the symbol of an element, such as Li"):
        parse_campaign(text)
