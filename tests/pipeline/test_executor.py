"""Real Dask: local clusters, and a scheduler with workers in processes of their own that get killed."""

from __future__ import annotations

import gc
import importlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import dask.system
import distributed
import psutil
import pytest

from ilse.core.errors import UserError
from pipeline.cluster import client as cluster
from pipeline.cluster import executor, packed_call, silence
from pipeline.cluster.executor import DaskExecutor, Executor, Serial, open_executor, threads_of, worker_device
from pipeline.cluster.machine import cores, memory
from pipeline.config import ClusterParams
from pipeline.work.shard import Shards
from tests.pipeline import made_up

ROOT = Path(__file__).parent.parent.parent
ITEMS = [(number,) for number in range(24)]


class Processes:
    """A `dask scheduler` and `dask worker`s as a user starts them, on loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running, self._stopped = folder, [], False
        self.port = _free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        assert not self._stopped
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "log").open("ab"),
        )
        self._running.append(process)
        return process

    def scheduler(self, **environment: str) -> subprocess.Popen[bytes]:
        port = str(self.port)
        process = self.start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", **environment)
        _await(self._answers)
        return process

    def _answers(self) -> bool:
        with closing(socket.socket()) as knock:
            return knock.connect_ex(("127.0.0.1", self.port)) == 0

    def worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start(
            "worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", *options, **environment
        )

    def stop(self) -> None:
        self._stopped = True
        for process in self._running:
            process.kill()
            process.wait()


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def local() -> Iterator[DaskExecutor]:
    with open_executor(ClusterParams(kind="local", workers=2)) as opened:
        assert isinstance(opened, DaskExecutor)
        yield opened


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@contextmanager
def at_address(processes: Processes) -> Iterator[Executor]:
    with open_executor(ClusterParams(kind="address", address=processes.address)) as opened:
        yield opened


def first_starts(folder: Path) -> list[list[str]]:
    file = folder / "starts"
    while not file.is_file() or not file.read_text().endswith("\n"):
        time.sleep(0.02)
    return [line.split() for line in file.read_text().splitlines()]


def test_a_run_on_workers_gives_what_the_serial_twin_gives(local: DaskExecutor) -> None:
    for each in (Serial(), local):
        assert isinstance(each, Executor)
        assert sorted(each.each(made_up.double, "job", ITEMS)) == [[2 * item[0]] for item in ITEMS]
        assert each.call(made_up.double, "job", (4, 5)) == [8, 10]
        assert list(each.each(made_up.double, "job", [])) == []


def test_the_graph_does_not_grow_with_the_number_of_items(local: DaskExecutor) -> None:
    taken = 0

    def items() -> Iterator[tuple[int, ...]]:
        nonlocal taken
        for number in range(300):
            taken += 1
            yield (number,)

    job = "x" * 1000
    results = local.each(made_up.double, job, items())
    seen = 0
    for _ in results:
        seen += 1
        assert taken - seen <= 2 * executor.A_WORKER
    assert seen == 300


def test_an_error_of_the_function_arrives_as_it_was_raised(local: DaskExecutor) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        list(local.each(made_up.failing, 3, ITEMS))
    assert caught.value.errno == 28
    with pytest.raises(UserError, match=r"text 7(.|\n)*name another compute_type"):
        list(local.each(made_up.refusing, 0, ITEMS))
    with pytest.raises(TimeoutError, match="the disk took too long"):
        list(local.each(made_up.slow, 0, ITEMS))


def test_what_waits_is_withdrawn_when_the_caller_stops(local: DaskExecutor, tmp_path: Path) -> None:
    results = local.each(made_up.logged, (tmp_path, 0.2), ITEMS)
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.6)
    assert len(first_starts(tmp_path)) <= 1 + 2 * executor.A_WORKER
    assert local.call(made_up.double, "job", (1,)) == [2]


def test_workers_of_kind_local_keep_their_memory_and_may_use_all_threads(local: DaskExecutor) -> None:
    environment = local.call(made_up.environment)
    assert "MALLOC_TRIM_THRESHOLD_" not in environment
    assert environment.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_who_has_no_key_of_the_run_is_not_let_in(local: DaskExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler and its workers run what they are sent, and every user of the machine reaches loopback."""
    scheduler = local._client.scheduler.address
    assert scheduler.startswith("tls://127.0.0.1:")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    for address in (scheduler, scheduler.replace("tls", "tcp")):
        with (
            pytest.raises(UserError, match="a Dask scheduler that answers"),
            open_executor(ClusterParams(kind="address", address=address)),
        ):
            pass
    workers = local._client.run(os.getpid)
    assert all(address.startswith("tls://127.0.0.1:") for address in workers)
    for pid in (os.getpid(), *workers.values()):
        ports = [one for one in psutil.Process(pid).net_connections("inet") if one.status == psutil.CONN_LISTEN]
        assert {one.laddr.ip for one in ports} <= {"127.0.0.1"}


IN_A_FOLDER = """
import os
from pathlib import Path
if __name__ == "__main__":
    from pipeline.cluster.executor import open_executor
    from pipeline.config import ClusterParams
    from pipeline.fetching.download import download_wheel
    from tests.pipeline.made_up import double
    with open_executor(ClusterParams(kind="local", workers=1)) as executor:
        assert executor.call(double, "job", (1,)) == [2]
    assert "PYTHONSAFEPATH" not in os.environ, "the caller's environment stays"
    os.environ |= {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    try:
        download_wheel("nothing", "1", Path(), "here")
    except Exception as error:
        print(error)
"""


def test_children_import_nothing_of_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "program.py").write_text(IN_A_FOLDER)
    (tmp_path / "work").mkdir()
    for name in ("socket", "random", "pip", "threading", "signal"):
        (tmp_path / "work" / f"{name}.py").write_text(
            "open('imported', 'a').write(__name__ + ' ')\nraise RuntimeError\n"
        )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bin" / "program.py")],
        cwd=tmp_path / "work",
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "one wheel from the package index" in done.stdout, "pip itself has run, and found no index"
    assert not (tmp_path / "work" / "imported").exists()


def test_a_schedulers_own_keys_come_from_dasks_configuration(processes: Processes, tmp_path: Path) -> None:
    keys = distributed.Security.temporary()
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text(keys.tls_client_key)
    certificate.write_text(keys.tls_ca_file)
    roles = {f"{role}.{part}": str(file) for role in ("client", "scheduler", "worker")
             for part, file in (("key", key), ("cert", certificate))}  # fmt: skip
    tls = {"ca-file": str(certificate), **roles}
    names = {f"DASK_DISTRIBUTED__COMM__TLS__{name.replace('.', '__').replace('-', '_').upper()}": value
             for name, value in tls.items()}  # fmt: skip
    processes.address = f"tls://127.0.0.1:{processes.port}"
    processes.start("scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", str(processes.port),
                    "--no-dashboard", **names)  # fmt: skip
    _await(processes._answers)
    processes.worker(**names)
    configured = dask.config.set({f"distributed.comm.tls.{name}": value for name, value in tls.items()})
    with configured, at_address(processes) as opened:
        assert opened.call(made_up.double, "job", (1,)) == [2]
    with pytest.raises(UserError, match="a Dask scheduler that answers"), at_address(processes):
        pass


SHOW_DASHBOARD = """
import sys, urllib.request
if {without_bokeh}: sys.modules["bokeh"] = None
from contextlib import redirect_stderr
from io import StringIO
from pipeline.config import ClusterParams
from pipeline.cluster.executor import open_executor
if __name__ == "__main__":
    with redirect_stderr(StringIO()) as said, open_executor(ClusterParams(kind="local", workers=1)):
        address = said.getvalue().split("dashboard: ")[1].split()[0]
        print(address, urllib.request.urlopen(address, timeout=10).read().decode())
"""


@pytest.mark.parametrize("without_bokeh", [True, False])
def test_the_dashboards_address_is_printed_and_answers(without_bokeh: bool) -> None:
    if not without_bokeh:
        pytest.importorskip("bokeh")
    done = subprocess.run(
        [sys.executable, "-c", SHOW_DASHBOARD.format(without_bokeh=without_bokeh)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    address, page = done.stdout.split(maxsplit=1)
    assert address.startswith("http://127.0.0.1:")
    assert "needs bokeh" not in page
    assert page.count("<title> Workers </title>") == without_bokeh


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with (
        pytest.raises(UserError, match=r"shard 5 on tls(.|\n)*every worker(.|\n)*memory(.|\n)*shards are kept"),
        open_executor(ClusterParams(kind="local", workers=1)) as opened,
    ):
        list(opened.each(made_up.deadly, 5, map(Shards, ITEMS[:8])))
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_workers_items_go_to_another(processes: Processes, tmp_path: Path) -> None:
    processes.scheduler()
    workers = [processes.worker(), processes.worker()]
    with at_address(processes) as opened:
        _await(lambda: len(opened._client.scheduler_info()["workers"]) == 2)  # type: ignore[attr-defined]
        items, seen = [(number,) for number in range(100)], []
        results = opened.each(made_up.logged, (tmp_path, 0.1), items)
        # On a busy machine one worker may still be importing when the other has done its first items.
        _await(
            lambda: (seen.append(next(results)), workers[0].pid in {int(pid) for _, pid in first_starts(tmp_path)})[1],
            pause=0,
        )
        workers[0].kill()
        assert sorted([*seen, *results]) == items
    processes_seen = {int(pid) for _, pid in first_starts(tmp_path)}
    assert processes_seen == {worker.pid for worker in workers}


@pytest.mark.slow
def test_a_worker_that_joins_gets_work(processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "PULSE_SECONDS", 0.2)
    processes.scheduler()
    processes.worker()
    with at_address(processes) as opened:
        results = opened.each(made_up.logged, (tmp_path, 0.1), [(number,) for number in range(200)])
        next(results)
        late = processes.worker()
        _await(lambda: (next(results), late.pid in {int(pid) for _, pid in first_starts(tmp_path)})[1], pause=0)
        results.close()  # type: ignore[attr-defined]


def _await(condition: Callable[[], bool], seconds: float = 40, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


@pytest.mark.parametrize(("signal_number", "limit"), [(signal.SIGKILL, 5), (signal.SIGSTOP, 12)])
def test_a_lost_scheduler_is_a_clear_error_in_time(
    signal_number: int,
    limit: float,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Killed, its connection breaks; stopped, it only falls silent, as behind a dead network."""
    monkeypatch.setattr(executor, "PULSE_SECONDS", 1.0)
    monkeypatch.setattr(executor, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 6.0)
    scheduler = processes.scheduler()
    processes.worker()
    with at_address(processes) as opened:
        results = opened.each(made_up.sleepy, 0.3, ITEMS)
        next(results)
        os.kill(scheduler.pid, signal_number)
        with within(limit), pytest.raises(UserError, match=r"connection(.|\n)*lost(.|\n)*resumes from there"):
            list(results)
    with pytest.raises(UserError, match=r"lost(.|\n)*resumes from there"):
        opened.call(made_up.double, "job", (1,))
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "ERROR" not in said


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://127.0.0.1", "nowhere:/x"])
def test_an_address_where_no_scheduler_answers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    before = _open_clients()
    with (
        within(5),
        pytest.raises(UserError, match=r"a Dask scheduler that answers(.|\n)*cluster.address"),
        open_executor(ClusterParams(kind="address", address=address)),
    ):
        pass
    assert _open_clients() == before, "a finaliser would run in any later client's thread, which waits for it"


def _open_clients() -> set[int]:
    return {id(one) for one in gc.get_objects() if type(one) is distributed.Client and one.status != "closed"}


def test_a_scheduler_without_workers_is_waited_for_and_then_refused(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    processes.scheduler()
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"at least one worker(.|\n)*none for(.|\n)*dask worker"), at_address(processes):
        pass
    assert "no worker has connected" in capfd.readouterr().err
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 40.0)
    threading.Timer(0.5, processes.worker).start()
    with at_address(processes) as opened:
        assert opened.call(made_up.double, "job", (1,)) == [2]
        assert isinstance(opened, DaskExecutor)
        monkeypatch.setattr(executor, "PULSE_SECONDS", 0.3)
        opened._patience = 1.0
        results = opened.each(made_up.deadly, 0, ITEMS)
        with pytest.raises(UserError, match="at least one worker"):
            list(results)


def test_a_worker_with_another_version_is_refused(processes: Processes, tmp_path: Path) -> None:
    """A real worker whose environment says that it has another torch."""
    info = tmp_path / "site" / "torch-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.1\n")
    processes.scheduler()
    processes.worker(PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")
    with pytest.raises(UserError, match=r"worker tcp(.|\n)*torch 2(.|\n)*torch 0\.1"), at_address(processes):
        pass


def test_a_worker_without_this_package_is_refused(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "real = metadata.version\n"
        "metadata.version = lambda name: real('' if name == 'ilse-cache' else name)\n"
    )
    processes.scheduler()
    processes.worker(PYTHONPATH=str(tmp_path))
    with pytest.raises(UserError, match=r"worker tcp(.|\n)*no package 'ilse-cache'"), at_address(processes):
        pass


def test_a_scheduler_that_cannot_import_this_package_reads_as_such(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pipeline'] = None\n")
    processes.scheduler(PYTHONPATH=str(tmp_path))
    processes.worker()
    with at_address(processes) as opened, pytest.raises(UserError, match=r"environment(.|\n)*on every worker"):
        list(opened.each(made_up.double, "job", ITEMS))


def test_a_worker_with_many_threads_runs_one_task_at_a_time(processes: Processes, tmp_path: Path) -> None:
    processes.scheduler()
    processes.worker("--nthreads", "4")
    with at_address(processes) as opened:
        assert not any(opened.each(made_up.overlaps, tmp_path, ITEMS))


LATE = """
import sys, threading, time
from pathlib import Path
FOLDER = Path(__file__).parent
ON_THE_LOOP = threading.current_thread() is threading.main_thread()
if "dask" in sys.orig_argv:
    (FOLDER / "begun").touch()
    while not (FOLDER / "go on").exists():
        time.sleep(0.01)
def imported(job, item):
    return ON_THE_LOOP
"""


def test_heartbeats_go_on_while_a_task_imports(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing PyTorch can take longer than a scheduler waits for a sign of life."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "takes_long_to_import.py").write_text(LATE)
    monkeypatch.syspath_prepend(str(site))
    late = importlib.import_module("takes_long_to_import")
    processes.scheduler(PYTHONPATH=str(ROOT))
    processes.worker(PYTHONPATH=f"{site}:{ROOT}")
    with at_address(processes) as opened:
        client = opened._client  # type: ignore[attr-defined]

        def last_seen() -> float:
            (worker,) = client.sync(client.scheduler.identity)["workers"].values()
            return float(worker["last_seen"])

        future = opened._submit(late.imported, "job", (1,))  # type: ignore[attr-defined]
        try:
            _await((site / "begun").exists)
            for _ in range(2):
                before = last_seen()
                _await(lambda before=before: last_seen() > before, seconds=10)  # type: ignore[misc]
        finally:
            (site / "go on").touch()
        assert future.result() is False, "it was imported by the thread that runs tasks"


def test_dask_takes_no_samples_where_they_may_hang(local: DaskExecutor) -> None:
    """On newer Pythons it may; see `SAMPLES_MAY_HANG`."""
    local.call(made_up.double, "job", (1,))
    first = set(local._client.run(made_up.sampled).values())
    assert (sys.version_info < (3, 11, 12)) == packed_call.SAMPLES_MAY_HANG
    if packed_call.SAMPLES_MAY_HANG:
        _await(lambda: not all(local._client.run(made_up.sampled).values()), seconds=10)
    else:
        assert first == {True}


def test_a_silent_worker_is_spoken_of(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It goes on afterwards, and no task is lost or counted as done twice."""
    monkeypatch.setattr(executor, "PULSE_SECONDS", 0.2)
    monkeypatch.setattr(silence, "NO_SIGN_SECONDS", 1.5)
    processes.scheduler()
    worker = processes.worker()
    said = ""
    with at_address(processes) as opened:
        results = opened.each(made_up.sleepy, 0.05, ITEMS)
        first = next(results)
        os.kill(worker.pid, signal.SIGSTOP)

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            if "no sign" in said:
                os.kill(worker.pid, signal.SIGCONT)
            return "no sign" in said

        listener = threading.Thread(target=lambda: _await(heard))
        listener.start()
        assert sorted([first, *results]) == ITEMS
        listener.join()
    assert re.search(r"worker tcp://127\.0\.0\.1:\d+ has given no sign for [2-9] s", said)
    assert said.count("no sign") == 1


def test_a_silence_is_spoken_of_once_and_counts_by_one_clock() -> None:
    signs, clock = silence.Signs(), 1e9  # the scheduler's
    heard = [
        list(signs.silent({"a": clock + (second // 200 * 200), "b": clock + second}, second))
        for second in map(float, range(0, 400, 20))
    ]
    assert [found for found in heard if found] == [[("a", 80.0)], [("a", 80.0)]]
    assert not list(signs.silent({"c": clock}, 400.0))
    assert not list(signs.silent({"a": clock}, 500.0)), "one that comes back is new"


SBATCH = """#!/bin/sh
cp "$1" {folder}/job-$$
setsid sh {folder}/job-$$ >{folder}/log-$$ 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -- -$job; done
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the jobs of what stands in for Slurm: two scripts run and end them in its place."""
    pytest.importorskip("dask_jobqueue")
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_slurms_jobs_become_workers(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real dask-jobqueue; of a job's four cores one worker has all, and a model takes them by itself."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    options = {"cores": 4, "memory": "1GB", "interface": "lo", "queue": "gpu", "job_script_prologue": ["export A=b"]}
    options |= {"security": True, "shared_temp_directory": str(slurm)}  # as the page on security says
    with open_executor(ClusterParams(kind="slurm", workers=2, options=options)) as opened:
        assert sorted(opened.each(made_up.double, "job", ITEMS)) == [[2 * item[0]] for item in ITEMS]
        _await(lambda: len(opened._client.scheduler_info()["workers"]) == 2)  # type: ignore[attr-defined]
        environment = opened.call(made_up.environment)
        pids = opened._client.run(os.getpid).values()  # type: ignore[attr-defined]
    jobs = [job.read_text() for job in slurm.glob("job-*")]
    assert len(jobs) == 2
    assert all("#SBATCH -p gpu" in job and "--nworkers" not in job for job in jobs)
    assert environment["A"] == "b"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["GOMP_SPINCOUNT"] == "10000"
    assert "MALLOC_TRIM_THRESHOLD_" not in environment
    _await(lambda: not any(psutil.pid_exists(pid) for pid in pids))


class _StandIn:
    """Takes the place of dask-cuda's cluster; keeps the options that reached the constructor."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        type(self).options = options
        raise RuntimeError("no GPU here")


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({}, {"dashboard_address": "127.0.0.1:0"}),
        (
            {"workers": 2, "options": {"dashboard_address": ":1", "rmm_pool_size": 0.5}},
            {"dashboard_address": ":1", "n_workers": 2, "rmm_pool_size": 0.5},
        ),
        ({"options": {"enable_nvlink": True}}, {"dashboard_address": "127.0.0.1:0", "enable_nvlink": True}),
    ],
)
def test_options_reach_dask_cuda(params: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in module: there is no CUDA device on the test machine, and nothing more is tested of this kind."""
    stand_in = types.ModuleType("dask_cuda")
    stand_in.LocalCUDACluster = _StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", stand_in)
    with (
        pytest.raises(UserError, match=r"kind 'cuda'(.|\n)*no GPU here(.|\n)*extract.cluster"),
        open_executor(ClusterParams(kind="cuda", **params)),
    ):
        pass
    keys = _StandIn.options.pop("security", None)
    assert _StandIn.options == options
    assert (keys is None) == ("enable_nvlink" in options), "over NVLink it has a protocol of its own"


@pytest.mark.parametrize(("kind", "module"), [("slurm", "dask_jobqueue"), ("cuda", "dask_cuda")])
def test_a_missing_package_names_its_extra(kind: Any, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(UserError, match=rf"no package '{module}'(.|\n)*ilse-cache\[{kind}\]"),
        open_executor(ClusterParams(kind=kind)),
    ):
        pass


def test_threads_are_shared_on_this_machine_and_left_to_workers_elsewhere() -> None:
    assert threads_of(0, ClusterParams(kind="synchronous")) == cores()
    assert threads_of(0, ClusterParams(kind="local", workers=10_000)) == 1
    assert threads_of(0, ClusterParams(kind="address", address="tcp://a:1")) == 0
    assert threads_of(0, ClusterParams(kind="slurm")) == 0
    assert threads_of(3, ClusterParams(kind="slurm")) == 3
    with _only_core_of(psutil.Process()):
        assert cores() == 1


TWO_AND_A_HALF, NO_LIMIT = "250000 100000\n", "max 100000\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": TWO_AND_A_HALF}, 3),
        ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": TWO_AND_A_HALF}, 3),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": NO_LIMIT}, 8),
        (
            {
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({}, 8),
    ],
)
@pytest.mark.parametrize("affinity", [True, False])
def test_a_container_s_share_of_the_cores_is_its_number(
    files: dict[str, str], found: int, affinity: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight cores, of which the control group leaves some; on macOS nothing can be asked but the machine."""

    def opened(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(dask.system, "open", opened, raising=False)
    monkeypatch.setattr(dask.system, "psutil", None)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in ("sched_getaffinity", "process_cpu_count"):
        if affinity:
            monkeypatch.setattr(os, name, (lambda *_: range(8)) if "sched" in name else (lambda: 8), raising=False)
        else:
            monkeypatch.delattr(os, name, raising=False)
    if affinity or sys.version_info < (3, 13):
        assert cores() == found


def test_memory_is_the_container_s_or_what_dask_leaves_the_worker(processes: Processes) -> None:
    here = memory()
    assert 0 < here <= psutil.virtual_memory().total
    processes.scheduler()
    processes.worker("--memory-limit", "500MB")
    with at_address(processes) as opened:
        assert opened.call(memory) == 500_000_000


@contextmanager
def _only_core_of(process: psutil.Process) -> Iterator[None]:
    before = process.cpu_affinity()
    process.cpu_affinity(before[:1])
    try:
        yield
    finally:
        process.cpu_affinity(before)


def test_a_local_worker_takes_the_device_of_its_index(local: DaskExecutor) -> None:
    assert [executor._device_number(index, 2) for index in range(4)] == [0, 1, 0, 1]
    assert executor._device_number(3, 0) == 0
    assert local.call(made_up.device, "cuda") in ("cuda:0", "cuda:1")
    assert local.call(made_up.device, "cpu") == "cpu"
    assert worker_device("cuda") == "cuda"
