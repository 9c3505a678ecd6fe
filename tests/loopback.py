"""Clusters of processes on this machine, for tests: they listen on loopback only, on ports that are free."""

from __future__ import annotations

from typing import Any


def loopback_cluster(**more: Any) -> Any:
    """Start a cluster of two processes of one thread each, whose status page takes any free port."""
    from distributed import LocalCluster

    place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    return LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **place, **more)
