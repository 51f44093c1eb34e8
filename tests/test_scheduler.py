"""Stages on a Dask cluster: same bytes, nothing lost with a worker, and plain words where it cannot be."""

import os
import socket
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cluster_work import write_case

from evaluation.RHLV_quantification import main as quantify
from util import worker_check
from util.cli import by_its_name, host_and_port, run_script
from util.errors import InputError
from util.paths import fake_label, straightened_label, write_json
from util.stage import run_stage
from util.volume import Volume, write_volume
from util.workers import answers, cluster_workers

ROOT = Path(__file__).resolve().parent.parent
DASK = [sys.executable, "-m", "dask"]


def start(folder: Path, *arguments: str, path: str = f"{ROOT}:{ROOT / 'tests'}") -> subprocess.Popen:
    """Start a part of a cluster from a folder of its own."""
    folder.mkdir(exist_ok=True)
    log = (folder / "log").open("w")
    return subprocess.Popen([*DASK, *arguments, "--no-dashboard"], cwd=folder, stdout=log, stderr=log,
                            env=os.environ | {"PYTHONPATH": path})


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, which run in another folder than the tests."""
    from distributed import Client

    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    scheduler = start(folder / "scheduler", "scheduler", "--host=127.0.0.1", f"--port={port}")
    workers = start(folder / "workers", "worker", f"127.0.0.1:{port}", "--nthreads=1", "--nworkers=2")
    with Client(f"127.0.0.1:{port}", timeout=120) as client:  # as long as a busy machine may take
        client.wait_for_workers(2, timeout=120)
    yield f"127.0.0.1:{port}"
    for process in (workers, scheduler):
        process.terminate()
        process.wait()


def run(folder: Path, cases: list[str], **options) -> int:
    """Do cases in a folder, which is given as a relative path."""
    return run_stage("Writing", partial(write_case, Path(os.path.relpath(folder))), cases,
                     lambda case: (folder / case).exists(), **options)


def write_pressed_boxes(folder: Path) -> None:
    """Write a cohort of boxes, pressed from 30 mm to 20 and more, and the same unpressed."""
    heights = {f"p{number}_20": 20 + number for number in range(4)}
    for case, height in heights.items():
        for path, rows in ((straightened_label(folder, case), height), (fake_label(folder, case), 30)):
            array = np.zeros((96, 64, 24), np.uint8)
            array[40:40 + rows, 17:47, 4:20] = 20
            write_volume(path, Volume(array, np.eye(4)))
    write_json(folder / "cohort.json", {"val": dict.fromkeys(heights, 1)})


def test_a_script_writes_the_same_bytes_on_a_cluster(cluster: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    found, command = [], ["--dataroot=.", "--output=.", "--cohort=cohort.json", "--no_figures"]
    for name, flags in (("serial", []), ("jobs", ["--jobs=2"]), ("scheduler", ["--scheduler", cluster])):
        folder = tmp_path / name
        write_pressed_boxes(folder)
        script = ROOT / "evaluation" / "RHLV_quantification.py"
        if flags:
            subprocess.run([sys.executable, script, *command, *flags], check=True, cwd=folder)
        else:
            monkeypatch.chdir(folder)
            assert quantify(command) == 0
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
                      if path.is_file() and path.suffix != ".xlsx"})  # which holds the time
    assert "RHLV/cases/p3_20.json" in found[0] and "RHLV/rhlv.csv" in found[0]
    assert found[0] == found[1] == found[2]


def test_a_dead_worker_s_cases_are_done_again(cluster: str, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    cases = ["a", "deadly", "b", "frail1", "fault", "frail2", "talking", *"cdefgh"]
    assert run(tmp_path, cases, scheduler=cluster) == 1
    done = {path.name for path in tmp_path.iterdir() if "_" not in path.name}
    assert done == {*cases} - {"deadly", "fault"}
    told = capsys.readouterr()
    assert "11 done, 0 skipped (complete), 2 failed" in told.out
    assert "deadly failed: the processes that tried it ended" in told.err
    assert "fault failed: ValueError: a fault" in told.err
    assert "talking: has something to say" in told.err
    assert 2 <= (tmp_path / "attempts_deadly").stat().st_size <= 8  # four together and four alone, at most
    assert run(tmp_path, cases[2:4], scheduler=cluster) == 0
    assert "0 done, 2 skipped" in capsys.readouterr().out


def test_processes_of_this_machine_stop_for_no_bad_case_and_no_dead_process(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    cases = ["a", "frail", "mistake", "deadly", "fault", "b", "c"]
    assert run(tmp_path, cases, jobs=2) == 1
    told = capsys.readouterr()
    assert {path.name for path in tmp_path.iterdir() if "_" not in path.name} == {"a", "frail", "b", "c"}
    assert "4 done, 0 skipped (complete), 3 failed" in told.out
    assert len(told.err.strip().splitlines()) == 3 and "deadly failed: the processes" in told.err
    assert "expected a good file" in told.err and "fault failed: ValueError: a fault" in told.err


def test_what_is_dear_is_loaded_once_a_process(cluster: str, tmp_path: Path) -> None:
    assert run(tmp_path, [f"case{number}" for number in range(12)], scheduler=cluster) == 0
    assert 1 <= len(list(tmp_path.glob("loaded_*"))) <= 2


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("util.workers.CONNECT_SECONDS", 1)
    address = f"127.0.0.1:{free_port()}"
    assert run_script(lambda _=None: run(tmp_path, ["a"], scheduler=address)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and f"--scheduler {address}: expected a Dask scheduler" in lines[0]


def test_a_scheduler_without_workers_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    wait = Client.wait_for_workers
    monkeypatch.setattr(Client, "wait_for_workers", lambda client, count, timeout: wait(client, count, 0.5))
    with (LocalCluster(n_workers=0, dashboard_address=":0") as empty,
          pytest.raises(InputError, match="expected workers, found none; start some with: dask worker")):
        run(tmp_path, ["a"], scheduler=empty.scheduler_address)


def test_workers_of_several_threads_are_refused(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0",
                       protocol="tcp") as crowded,
          pytest.raises(InputError, match="--nthreads 1")):
        run(tmp_path, ["a"], scheduler=crowded.scheduler_address)


def test_workers_of_other_software_are_refused(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = worker_check.software() | {"numpy": "0.1", "Python": "2.7"}
    monkeypatch.setattr(worker_check, "software", lambda: mine)
    with pytest.raises(InputError, match=r"worker tcp:.*found Python .* \(here 2.7\), numpy .*here 0.1"), \
            cluster_workers(cluster):
        pass


def test_workers_that_see_other_files_are_refused(cluster: str, monkeypatch: pytest.MonkeyPatch,
                                                  tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "only_here")
    with pytest.raises(InputError, match=r"expected the folder .*only_here.*share it"), \
            cluster_workers(cluster):
        pass


def test_workers_without_the_project_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from distributed import LocalCluster

    (tmp_path / "other" / "util").mkdir(parents=True)
    (tmp_path / "other" / "util" / "__init__.py").touch()
    (tmp_path / "other" / "util" / "worker_check.py").write_text("import a_package_that_lacks")
    monkeypatch.setattr("util.workers.CONNECT_SECONDS", 60)
    with LocalCluster(n_workers=0, dashboard_address=":0") as lacking:
        address = lacking.scheduler_address
        worker = start(tmp_path / "worker", "worker", address, "--nthreads=1", path=str(tmp_path / "other"))
        try:
            with pytest.raises(InputError, match=r"project to be installed there.*ModuleNotFoundError"):
                run(tmp_path, ["a"], scheduler=address)
        finally:
            worker.kill()
            worker.wait()


def test_the_benchmark_hands_the_scheduler_on() -> None:
    from evaluation.scoreboard.course import command

    args = Namespace(jobs=1, overwrite=True, scheduler="node1:8786")
    assert command("a.py", args=args) == "a.py --jobs 1 --overwrite --scheduler node1:8786"
    args.scheduler = None
    assert command("a.py", args=args) == "a.py --jobs 1 --overwrite"


@pytest.mark.parametrize(("text", "is_address"), [
    ("node1:8786", True), ("tcp://10.0.0.1:8786", True), ("tls://[::1]:8786", True), ("8786", False),
    ("node1:", False), ("node1:port", False), (":8786", False), ("node1:99999", False)])
def test_addresses(text: str, is_address: bool) -> None:
    if is_address:
        assert host_and_port(text) == text
    else:
        with pytest.raises(ArgumentTypeError, match="expected host:port"):
            host_and_port(text)


def test_a_script_s_functions_bear_the_name_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from phantom import make_cohort

    def main(argv: object = None) -> int:
        return 0

    assert by_its_name(main) is main  # of this module
    main.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(ROOT / "phantom" / "make_cohort.py"))
    assert by_its_name(main) is make_cohort.main
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/elsewhere/make_cohort.py")
    assert by_its_name(main) is main


def test_a_worker_that_comes_late_is_checked_as_well(cluster: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are asked before the first case; here all of them count as having come after that."""
    monkeypatch.setattr(worker_check, "check_workers", lambda *_: None)
    monkeypatch.setattr(worker_check, "software", lambda: {"numpy": "0.1"})
    with cluster_workers(cluster) as client:
        [(case, said, failure)] = answers(client, partial(write_case, tmp_path), ["alone"])
    assert (case, said) == ("alone", None) and not (tmp_path / "alone").exists()
    assert failure and "expected the software of the process that asks, found numpy" in failure
