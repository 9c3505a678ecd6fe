"""From model and data to a store: values, labels, noise, memory, and what happens when something fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from networks import tiny_resnet
from PIL import Image

import fmx
from fmx.data import PictureSource, gaussian_noise, open_source
from fmx.errors import DataError, FmxError, ModelError, StoreError
from fmx.extraction import Request, run, settle
from fmx.extraction.feed import Feed

SHAPE = (3, 32, 32)
LAYERS = "stem,layer1.0.add,layer1,fc"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two class folders with pictures of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for label, count in (("cat", 5), ("dog", 6)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels)
            (picture.convert("L") if i == 3 else picture).save(tmp_path / "data" / label / f"{i}.png")
    return tmp_path / "data"


def model() -> fmx.adapter.Model:
    return fmx.load(tiny_resnet(), input_shape=SHAPE)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "g", ">i2"])
@pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
def test_numbers_in_any_order_of_bytes(tmp_path: Path, dtype: str, engine: str) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    data = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8) % 7
    np.save(tmp_path / "a.npy", np.asfortranarray(data.astype(dtype)))
    opened = fmx.load(net, input_shape=(3, 8, 8))
    store = fmx.extract(opened, tmp_path / "a.npy", to=tmp_path / "a.zarr", layers="1", engine=engine)
    with torch.no_grad():
        wanted = net(torch.from_numpy(data.astype(np.float32))).numpy()
    np.testing.assert_allclose(store.activation("1").values[:, 0, 0], wanted, atol=1e-5)


def test_names_that_differ_by_case_alone(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.Conv = torch.nn.Conv2d(4, 2, 3)
            self.CONV = torch.nn.Conv2d(2, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passed: torch.Tensor = self.CONV(self.Conv(self.conv(x)))
            return passed

    data = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    opened = fmx.load(Net().eval(), input_shape=(3, 8, 8))
    fmx.extract(opened, data, to=tmp_path / "a.zarr", layers="conv,Conv", engine="eager")
    store = fmx.extract(opened, data, to=tmp_path / "a.zarr", layers="CONV", engine="eager", append=True)
    with opened.session(["conv", "Conv", "CONV"]) as session:
        expected = session.run(data)
    with xr.open_datatree(tmp_path / "a.zarr", engine="zarr") as plain:
        for name, values in expected.items():
            np.testing.assert_allclose(store.activation(name).values[:, 0, 0], values, atol=1e-6)
            np.testing.assert_array_equal(plain[f"layers/{name}/activation"], store.activation(name))


def test_store_holds_what_the_session_gives(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((9, *SHAPE), dtype=np.float32)
    store = fmx.extract(model(), data, to=tmp_path / "a.zarr", layers=LAYERS, batch_size=4, outputs=True)
    with model().session(LAYERS.split(","), outputs=True) as session:
        expected = session.run(data)
    assert [info.name for info in store.layers] == ["stem", "layer1.0.add", "layer1", "fc"]
    for name, values in expected.items():
        got = store.activation(name).isel(noise=0, timestep=0)
        np.testing.assert_allclose(got.values, values, rtol=1e-5, atol=1e-5)
    outputs = store.tree["outputs"].to_dataset()["output"].isel(noise=0, timestep=0)
    np.testing.assert_allclose(outputs.values, expected.outputs["output"], rtol=1e-5, atol=1e-5)
    assert store.pictures is None
    assert store.attributes["noise_space"] == "input"


def test_labels_and_provenance(pictures: Path, tmp_path: Path) -> None:
    net = model()
    store = fmx.extract(net, pictures, to=tmp_path / "a.zarr", layers="layer1", noise=[0.4, 0.2], seed=7)
    with xr.open_datatree(tmp_path / "a.zarr", engine="zarr") as tree:
        assert list(tree["sample"].values[:2]) == ["cat/0.png", "cat/1.png"]
        assert list(tree["noise"].values) == [0, 0.2, 0.4]
        assert list(tree["timestep"].values) == [0]
        assert list(tree.to_dataset()["label"].values) == ["cat"] * 5 + ["dog"] * 6
        assert tree.to_dataset()["path"].values[0] == str(pictures / "cat" / "0.png")
        one = tree["layers/layer1/activation"].sel(sample="dog/3.png", noise=0.2, timestep=0, channel=2)
        assert one.dims == ("y", "x")
        assert tree["inputs/picture"].shape == (11, 1, 32, 32, 3)
        about = tree.attrs
    assert about["fingerprint"] == net.fingerprint
    assert about["seed"] == 7
    assert about["preprocessing"]["source"] == "assumed"
    assert about["preprocessing"]["crop"] == [32, 32]
    assert about["completeness"] == "complete"
    assert "assumed: 32×32 RGB" in about["notes"][0]
    assert store.complete.all()


def test_noisy_values_are_those_of_noisy_pictures(pictures: Path, tmp_path: Path) -> None:
    """A slow reference: prepare, add noise and run each picture by itself."""
    options = fmx.PictureOptions(size=36, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    store = fmx.extract(
        model(), pictures, to=tmp_path / "a.zarr", layers="layer1", noise=[0, 0.3], seed=5, pictures=options
    )
    source = open_source(pictures)
    mean, std = np.reshape((0.5, 0.4, 0.3), (3, 1, 1)), np.reshape((0.2, 0.3, 0.4), (3, 1, 1))
    assert store.pictures is not None
    for i in (0, 3, 10):
        sample = source.samples[i].id
        picture = store.pictures.sel(sample=sample).values[0].transpose(2, 0, 1) / 255
        noise = gaussian_noise(SHAPE, seed=5, sample=sample, timestep=0, level=0.3)
        with model().session(["layer1"]) as session:
            expected = session.run((((picture + noise) - mean) / std).astype(np.float32)[None])["layer1"][0]
        got = store.activation("layer1").sel(sample=sample, noise=0.3).values[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_batch_size_changes_neither_noise_nor_activations(pictures: Path, tmp_path: Path) -> None:
    fed: dict[int, np.ndarray[Any, Any]] = {}
    stores = {}
    for size in (1, 7, 32):
        request = Request(
            model=model(),
            data=pictures,
            to=tmp_path / f"{size}.zarr",
            layers=LAYERS,
            noise=[0, 0.2, 0.4],
            seed=7,
            batch_size=size,
        )
        settled = settle(request)
        count = len(settled.source.samples)
        feed = Feed(
            settled.source,
            settled.preprocess,
            units=[range(8), range(8, count)],
            batch_size=size,
            noise=settled.levels,
            seed=7,
        )
        values = np.empty((count, 3, *SHAPE), np.float32)
        with feed:
            for batch in feed:
                start = batch.unit.start
                values[start + batch.rows.start : start + batch.rows.stop, batch.level] = batch.values
        fed[size], stores[size] = values, run(settled)
    assert np.array_equal(fed[1], fed[7])
    assert np.array_equal(fed[1], fed[32])
    for name in LAYERS.split(","):
        one = stores[1].activation(name).values
        for size in (7, 32):
            other = stores[size].activation(name).values
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_arrays_are_read_from_disk_and_noise_is_in_input_units(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    store = fmx.extract(model(), tmp_path / "data.npy", to=tmp_path / "a.zarr", layers="stem", noise=[0, 2.0], seed=1)
    noise = gaussian_noise(SHAPE, seed=1, sample="3", timestep=0, level=2.0)
    with model().session(["stem"]) as session:
        expected = session.run((data[3] + noise)[None])["stem"][0]
    np.testing.assert_allclose(
        store.activation("stem").sel(sample="3", noise=2.0).values[0], expected, rtol=1e-4, atol=1e-5
    )


def test_arrays_of_pictures_are_prepared_when_asked(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "data.npy", pixels)
    options = fmx.PictureOptions(size=32, range=(0, 255))
    store = fmx.extract(model(), tmp_path / "data.npy", to=tmp_path / "a.zarr", layers="stem", pictures=options)
    assert store.pictures is not None
    picture = store.pictures.values[2, 0]
    with model().session(["stem"]) as session:
        expected = session.run(picture.transpose(2, 0, 1).astype(np.float32)[None])["stem"][0]
    np.testing.assert_allclose(store.activation("stem").values[2, 0, 0], expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(DataError, match="only uint8 pictures"):
        fmx.extract(model(), np.zeros((2, *SHAPE)), to=tmp_path / "b.zarr", pictures=options)


def test_units_of_several_batches_and_several_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmx.store.schema.UNIT_BYTES", 8 * 8 * 16 * 16 * 4)
    data = np.random.default_rng(0).random((21, *SHAPE), dtype=np.float32)
    store = fmx.extract(model(), data, to=tmp_path / "a.zarr", layers="stem", batch_size=3)
    with model().session(["stem"]) as session:
        expected = session.run(data)["stem"]
    assert store.tree.to_dataset(inherit=False)["complete"].encoding["chunks"] == (8,)
    np.testing.assert_allclose(store.activation("stem").values[:, 0, 0], expected, rtol=1e-5, atol=1e-5)


# -- overlap and memory ----------------------------------------------------------------------------


def test_model_runs_while_the_store_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one unit is being written, the next batch is being run."""
    from fmx.store.unit_writer import UnitWriter

    monkeypatch.setattr("fmx.store.schema.UNIT_BYTES", 4 * 8 * 16 * 16 * 4)
    writing, overlapped = threading.Event(), threading.Event()
    real_write, real_put = UnitWriter._write, UnitWriter.put

    def slow_write(self: Any, *args: Any) -> None:
        writing.set()
        overlapped.wait(timeout=120)
        real_write(self, *args)
        writing.clear()

    def put(self: Any, *args: Any, **kwargs: Any) -> None:
        if writing.is_set():
            overlapped.set()
        real_put(self, *args, **kwargs)

    monkeypatch.setattr(UnitWriter, "_write", slow_write)
    monkeypatch.setattr(UnitWriter, "put", put)
    data = np.zeros((16, *SHAPE), np.float32)
    fmx.extract(model(), data, to=tmp_path / "a.zarr", layers="stem", batch_size=2)
    assert overlapped.is_set()


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    script = (
        "import resource, sys, numpy as np, fmx; sys.path.insert(0, sys.argv[2]);"
        "from networks import tiny_resnet; import fmx.store.schema as schema; schema.UNIT_BYTES = 2**20;"
        "net = fmx.load(tiny_resnet(), input_shape=(3, 64, 64));"
        "fmx.extract(net, sys.argv[1] + '.npy', to=sys.argv[1] + '.zarr', layers='all', batch_size=8);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (64, 640):
        # The big array is made on disk, a block at a time.
        array = np.lib.format.open_memmap(tmp_path / f"{count}.npy", "w+", np.float32, (count, 3, 64, 64))
        for start in range(0, count, 64):
            array[start : start + 64] = np.random.default_rng(start).random((64, 3, 64, 64))
        array.flush()
        del array
        command = [sys.executable, "-c", script, str(tmp_path / str(count)), str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
        peaks.append(int(done.stdout.split()[-1]))
    # 576 more samples are 28 MB of input, which stay mapped, and 470 MB of activations.
    assert peaks[1] - peaks[0] < 100_000


# -- failures --------------------------------------------------------------------------------------


def spoil(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:200])


def test_unreadable_picture_fails_by_name(pictures: Path, tmp_path: Path) -> None:
    spoil(pictures / "dog" / "2.png")
    with pytest.raises(DataError, match=r"dog/2\.png"):
        fmx.extract(model(), pictures, to=tmp_path / "a.zarr", layers="stem")


def test_unreadable_pictures_are_skipped_and_listed(pictures: Path, tmp_path: Path) -> None:
    spoil(pictures / "dog" / "2.png")
    (pictures / "cat" / "0.png").write_text("no picture")
    store = fmx.extract(model(), pictures, to=tmp_path / "a.zarr", layers="stem", on_error="skip")
    assert store.attributes["skipped"] == ["cat/0.png", "dog/2.png"]
    assert len(store.samples) == 9
    assert "dog/2.png" not in store.samples
    assert np.isfinite(store.activation("stem").values).all()


def test_threads_end_after_a_failure(pictures: Path, tmp_path: Path) -> None:
    spoil(pictures / "cat" / "0.png")
    with pytest.raises(DataError):
        fmx.extract(model(), pictures, to=tmp_path / "a.zarr", layers="stem")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(t.name.startswith("fmx-") for t in threading.enumerate()):
        time.sleep(0.05)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("fmx-")]


def test_what_would_fail_is_noticed_before_anything_is_written(pictures: Path, tmp_path: Path) -> None:
    to = tmp_path / "a.zarr"
    fixed: list[tuple[type[FmxError], dict[str, Any]]] = [
        (FmxError, {"layers": "nowhere"}),
        (DataError, {"batch_size": 0}),
        (DataError, {"noise": [-1.0]}),
        (DataError, {"on_error": "ignore"}),
        (ModelError, {"device": "cuda:99"}),
        (ModelError, {"pictures": fmx.PictureOptions(channels=1)}),
        (DataError, {"seed": 2**64}),
    ]
    for kind, change in fixed:
        with pytest.raises(kind):
            fmx.extract(model(), pictures, **{"to": to, "layers": "stem", **change})
        assert not to.exists(), change


def test_existing_store_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    data = np.zeros((2, *SHAPE), np.float32)
    first = fmx.extract(model(), data, to=tmp_path / "a.zarr", layers="stem")
    with pytest.raises(StoreError, match="--overwrite"):
        fmx.extract(model(), data, to=tmp_path / "a.zarr", layers="fc")
    assert [info.name for info in fmx.open_store(first.path).layers] == ["stem"]
    second = fmx.extract(model(), data, to=tmp_path / "a.zarr", layers="fc", overwrite=True)
    assert [info.name for info in second.layers] == ["fc"]


def test_module_stays_in_training_mode_through_an_extraction(tmp_path: Path) -> None:
    net = tiny_resnet().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fmx.extract(net, np.ones((3, *SHAPE), np.float32), to=tmp_path / "a.zarr", layers="stem", input_shape=SHAPE)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_picture_source_reads_from_several_threads(pictures: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    source = open_source(pictures)
    assert isinstance(source, PictureSource)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        many = list(pool.map(source.read, list(range(11)) * 5))
    assert all(np.array_equal(np.asarray(many[i]), np.asarray(source.read(i % 11))) for i in range(55))


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "weights", "top1", "top5"),
    [
        ("torchvision:mobilenet_v2", "mobilenet_v2-b0353104.pth", 18, 20),
        ("mobilenet_v2_legacy.onnx", None, 18, 20),
        ("torchvision:squeezenet1_1", "squeezenet1_1.pth", 14, 17),
        ("squeezenet1_1_scripted.pt", None, 14, 17),
        ("squeezenet1_1_dynamo.onnx", None, 14, 17),
    ],
)
def test_real_models_see_what_they_should(
    file: str, weights: str | None, top1: int, top5: int, real: Path, tmp_path: Path
) -> None:
    models = real / "models"
    opened = fmx.load(file if ":" in file else models / file, weights=weights and models / weights)
    store = fmx.extract(
        opened,
        real / "images" / "imagenet20",
        to=tmp_path / "a.zarr",
        layers=[opened.layers[-1].name],
        outputs=True,
    )
    scores = next(iter(store.tree["outputs"].to_dataset().data_vars.values())).values[:, 0, 0]
    truth = [int(Path(s).stem.rpartition("_")[2]) for s in store.samples]
    ranks = np.argsort(-scores, axis=1)
    assert sum(ranks[i, 0] == t for i, t in enumerate(truth)) == top1
    assert sum(t in ranks[i, :5] for i, t in enumerate(truth)) == top5
