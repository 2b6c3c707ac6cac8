"""The fixture ``ftvm``, as a test of somebody's kernel uses it."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def go(body: str) -> pytest.RunResult:
        pytester.makepyfile(body)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider")

    return go


def test_a_kernel_is_booted_disturbed_and_judged(run) -> None:  # type: ignore[no-untyped-def]
    run(
        """
        def test_a_flip_is_not_seen(ftvm):
            guest = ftvm.boot("workload", append="rounds=1")
            guest.wait_for("sieve")
            guest.flip("r15", 7, after=1000)
            guest.expect_exit(0)
            assert guest.faults == {1: {"register": 1}}
            assert "matmul" in guest.console

        def test_faults_by_text_leave_no_trace(ftvm):
            guest = ftvm.boot("workload", memory=64 << 20)
            guest.inject("module=0,target=rbx:40,at=2000000")
            guest.expect_like(ftvm.boot("workload", modules=1))

        def test_a_key_is_typed(ftvm):
            guest = ftvm.boot("echo", interactive=True)
            guest.wait_for("q ends")
            guest.type("q")
            assert guest.finish().outcome == "exit"

        def test_a_run_is_repeated(ftvm, tmp_path):
            recorded = ftvm.boot("hello", record=tmp_path / "run")
            recorded.expect_exit(0)
            recorded.machine.__exit__(None, None, None)
            again = ftvm.replay(tmp_path / "run")
            again.run_to(100)
            assert again.machine.position == 100

        def test_the_exit_code_counts(ftvm):
            ftvm.boot("failing").expect_exit(3)
        """
    ).assert_outcomes(passed=5)


def test_what_does_not_come_fails_the_test_and_shows_the_console(run) -> None:  # type: ignore[no-untyped-def]
    result = run(
        """
        import pytest

        def test_text(ftvm):
            ftvm.boot("hello").wait_for("good-bye")

        def test_code(ftvm):
            ftvm.boot("hello").expect_exit(1)

        def test_end(ftvm):
            ftvm.boot("spin").finish(timeout=0.2)

        def test_position(ftvm):
            ftvm.boot("hello").run_to(10**12)

        def test_other(ftvm):
            ftvm.boot("hello").expect_like(ftvm.boot("failing"))

        def test_usage(ftvm):
            with pytest.raises(Exception, match="no register"):
                ftvm.boot("hello").flip("rax9", 1)
        """
    )
    result.assert_outcomes(failed=5, passed=1)
    result.stdout.fnmatch_lines(
        ["*'good-bye' did not come: exit 0", "*console of hello*", "Hello from 64-bit mode*", "*exit 0, not exit 1"]
    )
    result.stdout.fnmatch_lines(["*still running after 0.2 s", "*did not come to 1000000000000: exit 0"])


def test_guests_end_with_their_test(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run(
        f"""
        def test_leaves_it_running(ftvm):
            guest = ftvm.boot("spin")
            with open({str(tmp_path / "pids")!r}, "w") as file:
                file.write(" ".join(str(module.pid) for module in guest.machine.modules))
        """
    ).assert_outcomes(passed=1)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_pytest_without_guests_does_not_load_a_cpu(run) -> None:  # type: ignore[no-untyped-def]
    run(
        """
        import sys

        def test_nothing():
            assert "ftvm._native" not in sys.modules
        """
    ).assert_outcomes(passed=1)
