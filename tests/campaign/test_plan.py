"""Plans say what they mean, and what is wrong with them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.campaign.plan import load_plan, parse_plan, share
from ftvm.errors import FtvmError, UnusableFile, UsageError
from ftvm.units import MIB
from tests.campaign.plans import SMALL, small


def test_a_plan_is_read() -> None:
    plan = small()
    assert (plan.name, plan.seed, plan.experiments, plan.epoch_blocks) == ("small", 7, 40, 5000)
    assert plan.guest[0].memory_bytes == 2 * MIB
    assert plan.columns == ["duplex", "simplex"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("version = 1", "version = 2"), "version 2"),
        (("version = 1", ""), "version missing"),
        (("seed = 7", "seed = -7"), "seed"),
        (("seed = 7", "sead = 7"), "sead"),
        (("seed = 7", "seed = "), "line 4"),
        (("experiments = 40", ""), "experiments"),
        (("experiments = 40", 'experiments = 40\nmargin = "1%"'), "margin"),
        (("experiments = 40", 'margin = "101%"'), "101%"),
        (("experiments = 40", 'margin = "much"'), "much"),
        (('epoch = "5k"', "epoch = 0"), "epoch"),
        (('epoch = "5k"', 'epoch = "soon"'), "epoch"),
        (('memory = "2M"', 'memory = "much"'), r"guest\[0\].memory"),
        (('memory = "2M"', "memory = 2"), "memory"),
        (('memory = "2M"', 'memory = "2M"\nstart = -1'), "start"),
        (('memory = "2M"', 'memory = "2M"\nstart = 5\nstart_text = "x"'), "start_text"),
        (('memory = "2M"', 'memory = "2M"\nblocks = 0'), "blocks"),
        (('memory = "2M"', 'memory = "2M"\ninput_after = "x"'), "input"),
        (('memory = "2M"', 'memory = "2M"\nmilestones = 0'), "milestones"),
        (('memory = "2M"', 'memory = "2M"\nnics = ["loopback", "ether"]'), r"guest\[0\].nics.*'ether'"),
        (('memory = "2M"', 'memory = "2M"\nnics = ["loopback,tap:tap0"]'), "outside"),
        (('memory = "2M"', 'memory = "2M"\nweight = 0'), "weight"),
        (('targets = ["general", "rip", "rflags"]', "targets = []"), "targets"),
        (("[[fault]]", "[fault]"), "fault"),
    ],
)
def test_an_error_names_what_is_wrong(change: tuple[str, str], named: str) -> None:
    assert change[0] in SMALL
    with pytest.raises(UnusableFile, match=named):
        parse_plan(SMALL.replace(*change), "small")


def test_paths_count_from_the_plan(tmp_path: Path) -> None:
    (tmp_path / "mine.elf").write_bytes(b"")
    (tmp_path / "plan.toml").write_text(SMALL.replace('"hello"', '"mine.elf"'))
    assert load_plan(tmp_path / "plan.toml").guest[0].image == str(tmp_path / "mine.elf")
    (tmp_path / "plan.toml").write_text(SMALL)
    assert load_plan(tmp_path / "plan.toml").guest[0].image == "hello"


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="cannot be read"):
        load_plan(tmp_path / "none.toml")
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UnusableFile, match="UTF-8"):
        load_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize(("value", "expected"), [(0.01, 0.01), ("1%", 0.01), ("0.5", 0.5), ("99.9%", 0.999)])
def test_shares_are_understood(value: float | str, expected: float) -> None:
    assert share(value) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0, 1, -1, "100%", "0%", "x", "", "nan", "%"])
def test_what_is_no_share_is_refused(value: float | str) -> None:
    with pytest.raises(UsageError):
        share(value)


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_clear_error(text: str) -> None:
    with pytest.raises(FtvmError):
        parse_plan(text, "any")


@given(
    st.dictionaries(
        st.sampled_from(["version", "name", "seed", "experiments", "margin", "epoch", "columns", "prune", "guest"]),
        st.sampled_from(["1", "-1", "true", '"x"', "[]", "[1]", "{}", "1e99", "nan", "[[]]", '["duplex", "duplex"]']),
    )
)
def test_any_value_in_any_field_is_understood_or_a_clear_error(fields: dict[str, str]) -> None:
    try:
        small(**fields)
    except FtvmError as error:
        assert error.message
