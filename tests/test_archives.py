"""Archives that torch reads, whichever format they hold: readers must not be shown different contents."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import fmx
from fmx.errors import ModelError
from fmx_adapters._archives import check_archive


@pytest.fixture(params=["pt2", "pth"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A good archive, as an exported program or a state dict."""
    path = tmp_path / f"good.{request.param}"
    if request.param == "pt2":
        torch.export.save(torch.export.export(nn.Linear(4, 3), (torch.rand(2, 4),)), path)
    else:
        torch.save(nn.Linear(4, 3).state_dict(), path)
    return path


def opened(file: Path) -> object:
    return fmx.load(file) if file.suffix == ".pt2" else fmx.load(nn.Linear(4, 3), weights=file, input_shape=(4,))


def test_good_archives_are_read(file: Path) -> None:
    assert opened(file)
    with zipfile.ZipFile(file) as archive:
        assert check_archive(file) == archive.namelist()


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("change", ["twice", "in capitals", "another folder", "beside the folder"])
def test_names_that_readers_may_take_for_others(change: str, file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        name = archive.namelist()[0]
        root, _, own = name.partition("/")
        added = {
            "twice": name,
            "in capitals": f"{root}/{own.upper()}",
            "another folder": f"other/{own}",
            "beside the folder": "stray",
        }
        archive.writestr(added[change], b"{}")
    with pytest.raises(ModelError, match=r"no archive as torch writes them \(it (holds .* twice|has 2 folders)"):
        opened(file)


@pytest.mark.parametrize("place", ["comment", "behind", "before"])
def test_data_around_an_archive(place: str, file: Path) -> None:
    if place == "comment":
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = b"more"
    else:
        whole = file.read_bytes()
        file.write_bytes(whole + b"more" if place == "behind" else b"PK\x03\x04" + bytes(100) + whole)
    with pytest.raises(ModelError, match=r"put together|does not end as one|truncated or damaged|damaged"):
        opened(file)


def test_an_archive_that_grows(file: Path) -> None:
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/data/9999", bytes(80 * 2**20))
    with pytest.raises(ModelError, match="unpacks to"):
        opened(file)
