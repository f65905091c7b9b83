"""Tasks on a cluster of Ray: nothing is lost or doubled, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.engine import environment, on_ray
from exporter.engine.executors import LocalExecutor, Task
from exporter.engine.on_ray import RayExecutor, open_ray
from exporter.errors import (
    BuildError,
    DataError,
    HubError,
    MachineError,
    RecipeError,
    ResourceError,
)
from exporter.system import signals
from exporter.system.progress import Progress, silent
from exporter.system.signals import Terminated
from tests.support import ray_cluster
from tests.support.ray_cluster import (
    PHASES,
    TIMING,
    Nodes,
    alive,
    ended,
    hold,
    kept,
    kill,
    meanwhile,
    reached,
    release,
    results,
    runs,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("RAY_AUTH_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
COUNT = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three nodes of two CPUs, whose Ray workers have secrets in their environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS[1:]:
            patch.setenv(name, "secret")
        with ray_cluster.cluster() as started:
            yield started


@pytest.fixture(scope="module")
def executor(nodes: Nodes) -> Iterator[RayExecutor]:
    with open_ray(nodes.address, threads=1) as opened:
        yield opened


@pytest.fixture
def unconnected(executor: RayExecutor) -> Iterator[None]:
    """Nothing is connected while a test connects, and the shared executor again after it."""
    executor.__exit__()
    yield
    executor.__enter__()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, bytes]]:
    """The answers and the results of `COUNT` tasks on this machine."""
    folder = tmp_path_factory.mktemp("local")
    return ended(LocalExecutor(2), kept(folder, COUNT)), results(folder)


def test_says_what_it_is(executor: RayExecutor) -> None:
    import ray

    assert executor.version == f"ray {ray.__version__}"
    assert not executor.is_local
    assert executor.nodes == {"count": 3, "cpus": 6}
    assert executor.workers == 6
    assert executor.environment == environment.describe()


def test_uses_a_connection_that_is_there_and_leaves_it(
    executor: RayExecutor, nodes: Nodes, tmp_path: Path
) -> None:
    import ray

    with open_ray(nodes.address, threads=1) as other:
        ended(other, kept(tmp_path, 1))
    assert ray.is_initialized()


@pytest.mark.parametrize("phase", PHASES)
def test_a_raylet_dies(
    phase: str,
    executor: RayExecutor,
    nodes: Nodes,
    tmp_path: Path,
    expected: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = kept(tmp_path, COUNT)
    hold(tmp_path, 3, "prepare")
    if phase != "prepare":
        hold(tmp_path, 3, phase)

    def strike() -> None:
        at = reached(tmp_path, 3, "prepare")["node"]
        release(tmp_path, 3, "prepare")
        if phase != "prepare":
            reached(tmp_path, 3, phase)
            release(tmp_path, 3, phase)
        nodes.kill(at)

    with meanwhile(strike):
        assert (ended(executor, tasks), results(tmp_path)) == expected
    deadline = time.monotonic() + 60
    while not caplog.records and time.monotonic() < deadline:  # Ray may take note of it later
        time.sleep(0.2)
        _ = executor.nodes
    assert "Ray lost a node; what ran there, if anything, runs again" in caplog.text
    nodes.restore()


def test_ray_workers_die_at_every_phase(
    executor: RayExecutor, tmp_path: Path, expected: Any
) -> None:
    tasks = kept(tmp_path, COUNT)
    for number, phase in enumerate(PHASES):
        hold(tmp_path, number, phase)

    def strike() -> None:
        found = {phase: reached(tmp_path, number, phase) for number, phase in enumerate(PHASES)}
        (child,) = runs(tmp_path, PHASES.index("work"))
        found["work"]["pid"] = parent_of(child)
        for number, phase in enumerate(PHASES):
            release(tmp_path, number, phase)
            kill(found[phase]["pid"])
        wait_until(lambda: not alive(child))

    with meanwhile(strike):
        assert (ended(executor, tasks), results(tmp_path)) == expected
    assert len(runs(tmp_path, PHASES.index("work"))) == 2
    assert len(runs(tmp_path, PHASES.index("prepare"))) == 1


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_child_that_is_killed_runs_once_more(
    executor: RayExecutor, tmp_path: Path, expected: Any
) -> None:
    tasks = kept(tmp_path, COUNT)
    hold(tmp_path, 2, "work")

    def strike() -> None:
        pid = reached(tmp_path, 2, "work")["pid"]
        release(tmp_path, 2, "work")
        kill(pid)

    with meanwhile(strike):
        assert (ended(executor, tasks), results(tmp_path)) == expected
    assert len(runs(tmp_path, 2)) == 2


def die(request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that is always killed."""
    count(request)
    os.kill(os.getpid(), request["signal"])
    return {}


def refuse(request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that fails with an error of ours."""
    count(request)
    msg = "the third clip is no audio"
    raise DataError(msg)


def blunder(request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step with a bug."""
    count(request)
    return {"x": request["missing"]}


def count(request: dict[str, Any]) -> None:
    with Path(request["runs"]).open("a") as file:
        file.write("x")


@pytest.mark.parametrize(
    ("step", "number", "kind", "told", "times"),
    [
        ("die", signal.SIGKILL, ResourceError, "part 2: starting: killed, most likely", 2),
        ("die", signal.SIGSEGV, BuildError, "part 2: starting: crashed with SIGSEGV", 1),
        ("refuse", 0, DataError, "the third clip is no audio", 1),
    ],
)
def test_errors_come_back_and_stop_no_other_task(
    step: str, number: int, kind: type, told: str, times: int, executor: Any, tmp_path: Path
) -> None:
    request = {"runs": str(tmp_path / "runs"), "signal": number}
    failing = Task(f"{__name__}:{step}", request, "part 2", 1)
    heard: list[tuple[str, float | None]] = []
    tasks = [failing, *kept(tmp_path, 1)]
    found = dict(executor.map(tasks, lambda *each: heard.append(each)))
    assert type(found[0]) is kind
    assert str(found[0]).startswith(told)
    assert found[1]["number"] == 0
    assert (tmp_path / "runs").read_text() == "x" * times
    assert heard == [(f"{done} of 2 tasks done, on 3 nodes", done / 2) for done in range(3)]


def test_a_bug_is_raised_once(executor: RayExecutor, tmp_path: Path) -> None:
    buggy = Task(f"{__name__}:blunder", {"runs": str(tmp_path / "runs")}, "part 2", 1)
    with pytest.raises(RuntimeError, match="KeyError: 'missing'"):
        list(executor.map([buggy], silent))
    assert (tmp_path / "runs").read_text() == "x"


def tell_environment(_request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that sends its environment, and that of the Ray worker."""
    parent = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    return {"own": dict(os.environ), "parent": [each.decode().split("=")[0] for each in parent]}


def test_a_child_gets_no_secrets_and_its_threads(executor: RayExecutor) -> None:
    task = Task(f"{__name__}:tell_environment", {}, "x", threads=2)
    ((_, answer),) = executor.map([task], silent)
    assert not isinstance(answer, Exception)
    assert {*SECRETS[1:]} <= {*answer["parent"]}
    assert not {*SECRETS} & {*answer["own"]}
    assert answer["own"]["OMP_NUM_THREADS"] == "2"


def warn(_request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that warns."""
    import logging

    logging.getLogger("exporter.somewhere").warning("one clip is silent")
    return {}


def test_warnings_of_a_node_are_shown_here(
    executor: RayExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    list(executor.map([Task(f"{__name__}:warn", {}, "x")], silent))
    assert caplog.messages == ["one clip is silent"]


def test_closing_the_iterator_ends_all_processes(executor: RayExecutor, tmp_path: Path) -> None:
    tasks = kept(tmp_path, COUNT)
    for number in range(1, COUNT):
        hold(tmp_path, number, "work")
    iterator = executor.map(tasks, silent)
    assert next(iterator)[0] == 0
    children = [reached(tmp_path, number, "work")["pid"] for number in range(1, 6)]
    iterator.close()
    wait_until(lambda: not any(map(alive, children)))
    assert len(results(tmp_path)) == 1


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_an_interrupt_ends_all_processes(
    number: int, raised: type[BaseException], executor: RayExecutor, tmp_path: Path
) -> None:
    """The signal comes while the driver waits."""
    tasks = kept(tmp_path, 2)
    for each in range(2):
        hold(tmp_path, each, "work")
    children: list[int] = []

    def strike() -> None:
        children.extend(reached(tmp_path, each, "work")["pid"] for each in range(2))
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signals.listen()
    try:
        with meanwhile(strike), pytest.raises(raised):
            ended(executor, tasks)
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    wait_until(lambda: not any(map(alive, children)))
    assert results(tmp_path) == {}


def test_a_driver_dies_at_every_phase(nodes: Nodes, tmp_path: Path, expected: Any) -> None:
    """The same command goes on, and the first one's processes end."""
    kept(tmp_path, COUNT)
    code = f"import sys; from {ray_cluster.__name__} import drive; drive(*sys.argv[1:])"
    command = [sys.executable, "-c", code, nodes.address, str(tmp_path), str(COUNT)]
    for number, phase in enumerate(PHASES):
        hold(tmp_path, number, phase)
    first = subprocess.Popen(command, cwd=ROOT)
    found = [reached(tmp_path, number, phase) for number, phase in enumerate(PHASES)]
    first.kill()
    first.wait()
    wait_until(lambda: not any(alive(each["pid"]) for each in found))
    for number, phase in enumerate(PHASES):
        release(tmp_path, number, phase)
    subprocess.run(command, cwd=ROOT, check=True)
    assert json.loads((tmp_path / "answers").read_text()) == expected[0]
    names = {path.name for path in (tmp_path / "results").iterdir() if path.name[0] != "."}
    assert names == {*expected[1]}


def test_alone_takes_a_whole_node(executor: RayExecutor, tmp_path: Path) -> None:
    """Only the CPUs of the other nodes stay free for tasks."""
    (task,) = kept(tmp_path, 1)
    (node,) = [each for each in executor._alive() if each.has(TIMING)]
    hold(tmp_path, 0, "prepare", to_kill=False)
    seen: list[str] = []

    def beside() -> None:
        import ray

        seen.append(reached(tmp_path, 0, "prepare")["node"])
        wait_until(lambda: ray.available_resources().get("CPU") == 4.0)
        release(tmp_path, 0, "prepare")

    with meanwhile(beside):
        assert executor.alone(TIMING, task)["number"] == 0
    assert seen == [node.id]
    with pytest.raises(MachineError, match=r"has the label use=x \(there are exporter-use=timing"):
        executor.alone({"use": "x"}, task)


@pytest.mark.parametrize(
    ("labels", "threads", "told"),
    [
        ({"exporter-use": "no"}, 1, r"label exporter-use=no \(there are exporter-use=timing\)"),
        ({}, 3, "no node of Ray can run a task of 3 CPUs: the largest have 2 CPUs"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    labels: dict[str, str], threads: int, told: str, nodes: Nodes, unconnected: None
) -> None:
    address = nodes.address.removeprefix("ray:")
    with (
        pytest.raises(MachineError, match=told) as raised,
        RayExecutor(address, threads=threads, labels=labels),
    ):
        pass
    assert raised.value.exit_code == 6


def test_a_task_that_no_node_can_hold_is_refused(executor: RayExecutor, tmp_path: Path) -> None:
    large = Task(f"{__name__}:refuse", {"runs": str(tmp_path / "runs")}, "x", 1, 10**15)
    found = dict(executor.map([large, *kept(tmp_path, 1)], silent))
    assert isinstance(found[0], MachineError)
    assert str(found[0]).startswith("no node of Ray can run a task of 1 CPU and 1e+03 TB of memory")
    assert not isinstance(found[1], Exception)
    assert not (tmp_path / "runs").exists()


def cards(_request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that tells which cards it sees."""
    return {"cards": os.environ.get("CUDA_VISIBLE_DEVICES")}


def test_a_task_that_needs_a_gpu_gets_one(executor: RayExecutor, nodes: Nodes) -> None:
    asking = Task(f"{__name__}:cards", {}, "x", 1, gpus=1)
    (refused,) = dict(executor.map([asking], silent)).values()
    assert isinstance(refused, MachineError)
    assert str(refused).startswith("no node of Ray can run a task of 1 CPU and 1 GPU")
    assert "the largest have 2 CPUs" in str(refused)
    with_card = nodes.cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 << 20)
    (answer,) = dict(executor.map([asking], silent)).values()
    nodes.cluster.remove_node(with_card)
    assert isinstance(answer, dict)
    assert answer["cards"] == "0"


def test_labels_restrict_tasks(nodes: Nodes, tmp_path: Path, unconnected: None) -> None:
    tasks = kept(tmp_path, 4)
    for number in range(2):
        hold(tmp_path, number, "prepare", to_kill=False)
    with open_ray(f"{nodes.address}?exporter-use=timing", threads=1) as restricted:
        assert restricted.nodes == {"count": 1, "cpus": 2}
        at: list[str] = []

        def look() -> None:
            at.extend(reached(tmp_path, number, "prepare")["node"] for number in range(2))
            for number in range(2):
                release(tmp_path, number, "prepare")

        with meanwhile(look):
            ended(restricted, tasks)
        (node,) = restricted._fitting()
    assert at == [node.id] * 2


def odd_node() -> tuple[str, dict[str, Any]]:
    """What `describe_node` tells, but for one node that has another CPU."""
    import ray

    found = environment.describe()
    labels = ray.get_runtime_context().get_node_labels()
    if labels.get("exporter-use") == "timing":
        found = {**found, "cpu": ["x86-64-v2"]}
    return environment.in_words(found), found


def test_nodes_of_two_kinds_are_refused(
    nodes: Nodes, unconnected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "describe_node", odd_node)
    with pytest.raises(MachineError) as raised, open_ray(nodes.address, threads=1):
        pass
    told = str(raised.value)
    assert "1 of x86-64-v2, torch" in told
    assert "2 of " in told
    assert "--on 'ray?LABEL=VALUE' (there are exporter-use=timing)" in told
    with open_ray(f"{nodes.address}?exporter-use=timing", threads=1) as chosen:
        assert chosen.environment["cpu"] == ["x86-64-v2"]
        # A node of another kind, as one that joins later would be: here all are.
        task = Task(f"{__name__}:warn", {}, "part 7")
        ((_, outcome),) = chosen.map([task], silent)
    assert isinstance(outcome, MachineError)
    assert str(outcome).startswith("part 7: a node of another kind than the others has joined")


@pytest.mark.parametrize(
    "on", ["rays", "ray:", "ray:host", "ray:host:port", "ray:host:99999", "ray?x", "local", ""]
)
def test_nonsense_is_refused(on: str) -> None:
    with pytest.raises(RecipeError, match="is no address of Ray: ray, or ray:HOST:PORT") as raised:
        open_ray(on, threads=1)
    assert raised.value.exit_code == 2


def test_rays_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"documentation recommends jobs:\nray job submit -- "):
        open_ray("ray://host:10001", threads=1)
    monkeypatch.setenv("RAY_ADDRESS", "ray://host:10001")
    with pytest.raises(RecipeError, match="ray job submit"):
        open_ray("ray", threads=1)


def test_a_cluster_that_is_not_there(unconnected: None) -> None:
    with (
        pytest.raises(HubError, match=r"cannot connect to Ray at 127\.0\.0\.1:9"),
        open_ray("ray:127.0.0.1:9", threads=1),
    ):
        pass


def test_a_ray_of_this_machine_alone_ends_with_the_block(
    tmp_path: Path, unconnected: None, monkeypatch: pytest.MonkeyPatch, expected: Any
) -> None:
    """It sends no statistics, and files of the working folder do not take modules' places."""
    import ray
    from ray._common.usage import usage_lib

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit\n")
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with open_ray("ray", threads=1) as local:
        assert not usage_lib.usage_stats_enabled()
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert Path.cwd() == tmp_path
        assert local.is_local
        assert local.nodes["count"] == 1
        raylet = int(ended_pid(local))
        assert (ended(local, kept(tmp_path / "x", COUNT)), results(tmp_path / "x")) == expected
    assert not ray.is_initialized()
    wait_until(lambda: not alive(raylet))


def raylet(_request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that tells the process of its node's raylet."""
    return {"pid": parent_of(os.getppid())}


def ended_pid(executor: RayExecutor) -> int:
    ((_, answer),) = executor.map([Task(f"{__name__}:raylet", {}, "x")], silent)
    assert not isinstance(answer, Exception)
    return int(answer["pid"])
