"""Places: folders, a real S3 server that answers as it should or not, and whatever else an address reaches."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from s3_server import environment, make_bucket, moto_server, spoiling_proxy
from test_store import IDS, LAYERS, a_plan, check, full_disk, put, run_python, write

from fmx.errors import StoreError
from fmx.store import (
    StoreLock,
    UnitWriter,
    addresses,
    create_store,
    finish_store,
    is_fmx_store,
    locks,
    mark_for_repair,
    open_store,
    pending_units,
    place_of,
    schema,
    verify_store,
)
from fmx.store.addresses import FsspecPlace, ObjectPlace
from fmx.store.places import FolderPlace

QUICK = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=50), "base": 2}


@pytest.fixture(scope="module")
def server():
    with moto_server() as address:
        make_bucket(address, "bucket")
        yield address


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    """Reach the server; gives an address that nothing is at."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{tmp_path.name}/{time.monotonic_ns()}.zarr"


@pytest.fixture(params=["folder", "s3", "memory"])
def anywhere(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return tmp_path / "s" if request.param == "folder" else f"memory://{tmp_path.name}/s"


class TestObjects:
    """Every place keeps the same promises."""

    def test_objects_come_back(self, anywhere):
        place = pickle.loads(pickle.dumps(place_of(anywhere)))
        assert (place.read("a/b"), list(place.list())) == (None, [])
        place.write("a/b", b"12", np.array([3, 4], np.uint8))
        place.write_many({"a/c": b"", "d": b"1"})
        place.write("d", b"22")
        assert (place.read("a/b"), place.read("a/c"), place.read("d")) == (b"12\x03\x04", b"", b"22")
        assert sorted(place.list()) == [("a/b", 4), ("a/c", 0), ("d", 2)]
        assert sorted(place.list("a")) == [("a/b", 4), ("a/c", 0)]
        assert not place.create("d", b"3")
        assert place.create("e", b"3")
        place.delete(["a/b", "never"])
        place.clear(keep=["e"])
        assert list(place.list()) == [("e", 1)]
        place.delete_below("nothing")
        assert place.zarr().read_only

    def test_stores_are_written_overwritten_and_read(self, anywhere):
        check(write(anywhere, a_plan()), LAYERS)
        with pytest.raises(StoreError, match="is there already: choose another name with -o, or add --overwrite"):
            write(anywhere, a_plan())
        assert write(anywhere, a_plan(IDS[:1]), overwrite=True).samples == IDS[:1]
        assert verify_store(anywhere).whole
        assert verify_store(anywhere).orphans == []

    def test_what_is_no_store_is_left_alone(self, anywhere):
        place = place_of(anywhere)
        place.write("thesis.txt", b"text")
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="is there and is no fmx store: choose another name"):
                write(anywhere, a_plan(), overwrite=overwrite)
        assert place.read("thesis.txt") == b"text"

    def test_a_store_whose_making_was_interrupted_is_made_anew(self, anywhere, monkeypatch):
        place = place_of(anywhere)
        step = "_name" if isinstance(place, FolderPlace) else "write"
        real = getattr(type(place), step)

        class Ended(Exception):
            pass

        for steps in range(0, 1000, 3):
            left = steps

            def spend(place, name, *parts):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Ended
                return real(place, name, *parts)

            with monkeypatch.context() as patch:
                patch.setattr(type(place), step, spend)
                try:
                    create_store(anywhere, a_plan(IDS[:2]))
                except Ended:
                    assert not is_fmx_store(anywhere)
                else:
                    break
        assert pending_units(anywhere) == [range(0, 2)]
        assert {name for name, _ in place.list() if name.startswith(".")} == set()

    def test_damage_is_repaired(self, anywhere):
        store = write(anywhere, a_plan())
        name = "layers/conv1/activation/c/0/0/1/0/0/0"
        good = store.place.read(name)
        store.place.write(name, good[:-1])
        found = verify_store(anywhere)
        assert [(d.name, d.what) for d in found.damages] == [(name, "truncated")]
        mark_for_repair(anywhere, found)
        assert open_store(anywhere).attributes["completeness"] == "partial"
        assert pending_units(anywhere) == found.units == [range(0, 3)]


class TestS3:
    def test_plain_xarray_and_another_process_read_it(self, s3):
        write(s3, a_plan())
        code = """import sys, xarray as xr, zarr
from obstore.store import from_url
store = zarr.storage.ObjectStore(from_url(sys.argv[1], client_options={"allow_http": True}), read_only=True)
tree = xr.open_datatree(store, engine="zarr")
print(float(tree["layers/conv1/activation"].sum()))"""
        ran = run_python(code, s3)
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert float(ran.stdout) == float(open_store(s3).tree["layers/conv1/activation"].sum())

    def test_half_a_store_goes_on(self, s3, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 1)
        plan = a_plan()
        place = create_store(s3, plan)
        for units in ([1], [0, 2]):
            writer = Redone(place, plan)
            with writer:
                for number in units:
                    put(writer, pending_units_at(place)[number])
        assert pending_units(place) == []
        finish_store(place)
        check(open_store(s3), LAYERS)

    def test_a_server_that_fails_and_hangs_up_for_a_while(self, s3, server, monkeypatch):
        """Every third request fails, hangs up or is slow: retries bring the same objects."""
        wanted = dict(objects(write(s3, a_plan()).place))

        def fault(number, _method, _path):
            return {0: "500", 3: "drop", 6: "slow"}.get(number % 9, "ok")

        monkeypatch.setattr(addresses, "_RETRIES", addresses._RETRIES | {"backoff": QUICK})
        with spoiling_proxy(server, fault) as (address, log):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            store = write(s3 + "2", a_plan())
            check(store, LAYERS)
        assert min(log.count("500"), log.count("drop"), log.count("slow")) > 5
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        assert dict(objects(place_of(s3 + "2"))) == wanted

    def test_a_server_that_does_not_answer_in_time(self, s3, server, monkeypatch):
        write(s3, a_plan())
        monkeypatch.setattr(addresses, "_TIMEOUTS", {"timeout": timedelta(milliseconds=250)})
        monkeypatch.setattr(addresses, "_RETRIES", addresses._RETRIES | {"backoff": QUICK})
        with spoiling_proxy(server, lambda n, *_: "slow" if n % 4 == 0 else "ok") as (address, log):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            store = write(s3 + "2", a_plan())
            check(store, LAYERS)
        assert log.count("slow") > 10

    def test_a_server_that_is_down_is_said_in_one_sentence(self, s3, server, monkeypatch):
        monkeypatch.setattr(addresses, "_RETRIES", {"max_retries": 1, "backoff": QUICK})
        monkeypatch.setattr(addresses, "_WAITS", ())
        with spoiling_proxy(server, lambda *_: "500") as (address, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            with pytest.raises(StoreError, match=r"can't be read \(.*\): correct the path or address"):
                write(s3, a_plan())
            with pytest.raises(StoreError, match=r"can't be read \(.*\): correct the path or address"):
                open_store(s3)

    def test_a_server_that_ends_in_the_middle(self, s3, server, monkeypatch):
        """Nothing that was cut off passes as done, and going on brings the rest."""
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 1)
        monkeypatch.setattr(addresses, "_RETRIES", {"max_retries": 1, "backoff": QUICK})
        monkeypatch.setattr(addresses, "_WAITS", ())
        down = False

        def fault(_number, method, path):
            nonlocal down
            down |= method == "PUT" and "/complete/c/1" in path
            return "500" if down else "ok"

        plan = a_plan()
        with spoiling_proxy(server, fault) as (address, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            place = create_store(s3, plan)
            with pytest.raises(StoreError, match="can't be written"), Redone(place, plan) as writer:
                for unit in pending_units(place):
                    put(writer, unit)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        assert open_store(s3).complete.tolist() == [True, False, False]
        place = place_of(s3)
        with Redone(place, plan) as writer:
            for unit in pending_units(place):
                put(writer, unit)
        finish_store(place)
        check(open_store(s3), LAYERS)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        return


class Redone(UnitWriter):
    def __init__(self, place, plan):
        super().__init__(place)
        self.plan = plan

    def put(self, key, rows, block, *, noise=None, timestep=0):
        for row, one in zip(range(rows.start, rows.stop), block, strict=True):
            at = row * self.plan.timesteps + timestep
            super().put(key, slice(at, at + 1), one[None], noise=noise)


def pending_units_at(place):
    from fmx.store import read_layout

    return read_layout(place).units()


def objects(place):
    return {name: place.read(name) for name, _ in place.list()}


class TestAddresses:
    def test_what_a_web_server_offers_is_read(self, tmp_path):
        write(tmp_path / "s.zarr", a_plan())
        handler = partial(QuietHandler, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{web.server_address[1]}/s.zarr"
            check(open_store(address), LAYERS)
            with pytest.raises(StoreError, match="can only be read: give a folder or s3://"):
                write(address, a_plan(), overwrite=True)
            web.shutdown()

    def test_what_they_lead_to(self, tmp_path, s3):
        assert isinstance(place_of("s3://bucket/a"), ObjectPlace)
        assert isinstance(place_of(Path("s3://bucket/a")), ObjectPlace)
        assert isinstance(place_of("memory://a"), FsspecPlace)
        for text in ("a/b", "C:\\a", tmp_path, f"file://{tmp_path}"):
            assert isinstance(place_of(text), FolderPlace)
        assert place_of(f"file://{tmp_path}").local == tmp_path

    def test_unknown_ones_are_refused(self):
        with pytest.raises(StoreError, match="there is no way to reach gopher://; give a folder or s3://"):
            place_of("gopher://hole/a")

    def test_what_is_missing_is_named(self, monkeypatch):
        real = builtins.__import__

        def refuse(name, *rest):
            if name.partition(".")[0] in {"obstore", "fsspec"}:
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(StoreError, match=r"s3://bucket/a needs obstore: pip install 'fmx\[s3\]'"):
            place_of("s3://bucket/a")
        with pytest.raises(StoreError, match=r"memory://a needs fsspec: pip install fsspec"):
            place_of("memory://a")


class TestLocks:
    def test_a_second_writer_is_refused(self, anywhere):
        with (
            StoreLock(anywhere),
            pytest.raises(
                StoreError, match=f"is being written by process {os.getpid()} on .*: wait until it has ended"
            ),
            StoreLock(anywhere),
        ):
            pass
        with StoreLock(anywhere) as lock:
            lock.check()
        assert not list(place_of(anywhere).list())

    def test_nothing_stays_where_nothing_came_of_it(self, tmp_path):
        with StoreLock(tmp_path / "s"):
            assert (tmp_path / "s").exists()
        assert not (tmp_path / "s").exists()

    def test_the_lock_of_a_killed_process_is_free(self, anywhere):
        if "memory" in str(anywhere):
            pytest.skip("no other process sees this memory")
        code = """import sys, time
from fmx.store import StoreLock
with StoreLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)"""
        command = [sys.executable, "-W", "error", "-c", code, str(anywhere)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "held\n"
                with pytest.raises(StoreError, match=f"by process {process.pid} on"), StoreLock(anywhere):
                    pass
            finally:
                process.send_signal(signal.SIGKILL)
        with StoreLock(anywhere):
            pass

    def test_a_lock_on_another_machine_is_free_once_nobody_renews_it(self, s3):
        place = place_of(s3)
        for age, free in ((5, False), (1000, True)):
            place.write(schema.LOCK, json.dumps({"host": "elsewhere", "pid": 1, "time": time.time() - age}).encode())
            if free:
                with StoreLock(s3):
                    pass
            else:
                with pytest.raises(StoreError, match="by process 1 on elsewhere"), StoreLock(s3):
                    pass

    def test_locks_are_renewed_and_one_that_was_lost_is_noticed(self, s3, monkeypatch):
        monkeypatch.setattr(locks, "_RENEWED_EVERY", 0.05)
        place = place_of(s3)
        with StoreLock(s3) as lock:
            first = json.loads(place.read(schema.LOCK))["time"]
            until = time.monotonic() + 60
            while json.loads(place.read(schema.LOCK))["time"] == first and time.monotonic() < until:
                time.sleep(0.02)
            assert json.loads(place.read(schema.LOCK))["time"] > first
            place.write(schema.LOCK, b'{"host": "elsewhere", "pid": 1, "token": "other"}')
            while not lock._held.lost and time.monotonic() < until:
                time.sleep(0.02)
            with pytest.raises(StoreError, match="was taken over by another extraction"):
                lock.check()
        assert place.read(schema.LOCK) is not None


class TestFullDisk:
    def test_a_disk_that_is_full_for_a_while(self, tmp_path, monkeypatch):
        """Whatever write fails: nothing passes as done that is not, and going on brings the whole store."""
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        plan = a_plan()
        write(tmp_path / "whole", plan)
        real, wanted = FolderPlace._name, objects(place_of(tmp_path / "whole"))
        for first in range(0, 60, 7):
            path = tmp_path / str(first)
            place = create_store(path, plan)
            count = 0

            def full(place, name, partial, first=first):
                nonlocal count
                count += 1
                if count > first:
                    full_disk()
                real(place, name, partial)

            with monkeypatch.context() as patch:
                patch.setattr(FolderPlace, "_name", full)
                try:
                    with Redone(place, plan) as writer:
                        for unit in pending_units(place):
                            put(writer, unit)
                    finish_store(place)
                except StoreError as error:
                    assert "can't be written (No space left on device)" in str(error)
            assert verify_store(path).whole
            with Redone(place, plan) as writer:
                for unit in pending_units(place):
                    put(writer, unit)
            finish_store(place)
            assert objects(place) == wanted

    def test_a_disk_that_is_really_full(self, tmp_path):
        """A file system of one megabyte, where the machine lets us make one."""
        disk = tmp_path / "disk"
        disk.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("file systems can't be mounted here")
        try:
            fill_it(disk / "s", r"can't be written \(No space left on device\)")
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_limit_on_the_size_of_files(self, tmp_path):
        """What a quota does, without one: the system takes a part of a write and then refuses."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            place, plan = create_store(tmp_path / "s", a_big_plan()), a_big_plan()
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, hard))
            with pytest.raises(StoreError, match=r"can't be written \(File too large\)"):
                fill(place, plan)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert not open_store(tmp_path / "s").complete.any()
        assert not list((tmp_path / "s").rglob("*partial*"))
        fill(place, plan)
        finish_store(place)
        assert verify_store(place).whole


def a_big_plan():
    from fmx.layers import LayerInfo
    from fmx.store import StorePlan

    layers = [LayerInfo("conv", "Conv2d", ("channel", "y", "x"), (4, 64, 64), "float32")]
    return StorePlan([str(i) for i in range(64)], [""] * 64, [""] * 64, [0.0], layers, {}, codec="none")


def fill(place, plan):
    with UnitWriter(place) as writer:
        for unit in pending_units(place):
            writer.start_unit(unit)
            for row in range(len(unit)):
                values = np.random.default_rng(unit.start + row).normal(size=(1, 4, 64, 64)).astype(np.float32)
                writer.put("conv", slice(row, row + 1), values, noise=0)
            writer.finish_unit(unit)


def fill_it(path, words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        patch.setattr(schema, "CHUNK_BYTES", 2**16)
        place, plan = create_store(path, a_big_plan()), a_big_plan()
        with pytest.raises(StoreError, match=words):
            fill(place, plan)
    store = open_store(path)
    done = int(store.complete.sum())
    assert 0 < done < 64
    assert store.attributes["completeness"] == "partial"
    assert verify_store(path).whole
    assert np.isfinite(store.activation("conv").values).all()
    with pytest.raises(StoreError, match="is not finished"):
        finish_store(place)
