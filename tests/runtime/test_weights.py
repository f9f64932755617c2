"""Weights: transforms replayed, mapped arrays passed through, random models, packed files whole or not at all."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from g4c.errors import G4cError
from g4c.frontend.config import decoder_tensors, load_model_config
from g4c.ir.op import Dense
from g4c.ir.types import Array, DType, TensorType
from g4c.ir.weights import Cast, Concat, Reshape, Scale, Slice, Source, Transpose, Weight
from g4c.runtime.aligned import is_aligned
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.weights import PackedTensors, WeightStore, open_packed, pack_weights

BF16 = DType.BF16


class Fixed:
    """A provider of given arrays."""

    def __init__(self, **arrays: Array) -> None:
        self.arrays = arrays

    def stored(self, source: Source) -> Array:
        return self.arrays[source.key]


def weight(key: str, *shape: int, dtype: DType = BF16) -> Weight:
    return Weight.stored(key, TensorType(shape, dtype))


def store_of(*weights: Weight, seed: int = 0) -> WeightStore:
    return WeightStore({w.name: w for w in weights}, RandomWeights(seed))


def tiny_store(dtype: DType = BF16, seed: int = 0) -> WeightStore:
    shapes = decoder_tensors(load_model_config("tiny-e2b"))
    return store_of(*(weight(name, *shape, dtype=dtype) for name, shape in shapes.items()), seed=seed)


def test_a_stored_tensor_of_the_right_dtype_is_passed_through() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    store = WeightStore({"a": weight("a", 2, 3, dtype=DType.F32)}, Fixed(a=array))
    assert store["a"] is array


@pytest.mark.parametrize("dtype", [BF16, DType.F16])
def test_other_dtypes_are_rounded_once(dtype: DType) -> None:
    array = np.linspace(-3, 3, 77, dtype=np.float32)
    store = WeightStore({"a": weight("a", 77, dtype=dtype)}, Fixed(a=array))
    assert np.array_equal(store["a"], array.astype(dtype.numpy))
    assert is_aligned(store["a"])


def test_transforms_are_replayed_in_order() -> None:
    q, k = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3, dtype=np.float32).reshape(1, 3) + 10
    f32 = DType.F32
    sources = (Source("q", TensorType((2, 3), f32)), Source("k", TensorType((1, 3), f32)))
    fused = Weight("qk", sources).then(Concat(axis=0), Transpose((1, 0)), Reshape((9,)), Cast(BF16))
    store = WeightStore({"qk": fused}, Fixed(q=q, k=k))
    assert np.array_equal(store["qk"].astype(np.float32), np.concatenate([q, k]).T.reshape(9))
    assert store["qk"].dtype == ml_dtypes.bfloat16


def test_constants_need_no_provider() -> None:
    value = np.arange(4, dtype=np.float32)
    constant = Weight("c", value=Dense.of(value))
    assert np.array_equal(WeightStore({"c": constant}, Fixed())["c"], value)


def test_a_tensor_that_does_not_fit_is_refused() -> None:
    store = WeightStore({"a": weight("a", 2, 3)}, Fixed(a=np.zeros((3, 2), np.float32)))
    with pytest.raises(G4cError) as caught:
        store["a"]
    assert caught.value.code == "G4C-R001"


def test_a_store_is_a_mapping_with_a_size() -> None:
    store = store_of(weight("a", 4, 4), weight("b", 3, dtype=DType.F32))
    assert (list(store), len(store), store.nbytes) == (["a", "b"], 2, 32 + 12)
    assert {name: array.shape for name, array in store.items()} == {"a": (4, 4), "b": (3,)}


def test_a_seed_means_the_same_model_in_every_release() -> None:
    golden = [0.60546875, 0.4765625, 0.4609375, -0.04443359375, 0.1083984375, 0.24609375, 0.470703125, 0.59765625]
    source = weight("layers.0.mlp.up_proj.weight", 2, 4, dtype=DType.F32).sources[0]
    assert RandomWeights(0).stored(source).reshape(-1).tolist() == golden


def test_random_weights_depend_on_seed_and_key_only() -> None:
    big = weight("a.weight", 1500, 1000).sources[0]
    one, two = RandomWeights(1, threads=1), RandomWeights(1, threads=4)
    first = one.stored(big)
    two.stored(weight("b.weight", 7, 7).sources[0])
    assert np.array_equal(first, two.stored(big))
    assert not np.array_equal(first, one.stored(weight("c.weight", 1500, 1000).sources[0]))
    assert not np.array_equal(first, RandomWeights(2).stored(big))


def test_random_weights_are_the_same_model_in_every_dtype() -> None:
    low, high = tiny_store(BF16), tiny_store(DType.F32)
    for name in ("embed_tokens.weight", "layers.3.self_attn.q_norm.weight", "layers.20.layer_scalar"):
        assert high[name].dtype == np.float32
        assert np.array_equal(low[name].astype(np.float32), high[name])


def test_random_statistics_by_role() -> None:
    store = tiny_store(DType.F32)
    ranges = {"q_norm.weight": (0.1, 0.2), "k_norm.weight": (0.1, 0.2), "layer_scalar": (0.5, 0.9)}
    scalars = []
    for name, array in store.items():
        if array.ndim == 1:
            low, high = next((r for end, r in ranges.items() if name.endswith(end)), (0.5, 1.5))
            assert low * 0.99 <= array.min(), name
            assert array.max() <= high * 1.01, name
            if array.size >= 128:
                assert abs(array.mean() - (low + high) / 2) < 0.2 * (high - low), name
            if name.endswith("layer_scalar"):
                scalars.append(float(array[0]))
            continue
        deviation = 1 / 16 if name == "embed_tokens_per_layer.weight" else array.shape[1] ** -0.5
        assert array.std() == pytest.approx(deviation, rel=5 * (2 * array.size) ** -0.5), name
        assert abs(array.mean()) < 5 * deviation * array.size**-0.5, name
    assert len(set(scalars)) > 25
    assert max(scalars) - min(scalars) > 0.3


def test_random_routers_tell_experts_apart() -> None:
    """Logits of order 1 for an input of order 1 / sqrt(h): a router whose choices are all ties would hide mistakes."""
    router = RandomWeights(0).stored(weight("layers.0.router.proj.weight", 128, 512, dtype=DType.F32).sources[0])
    assert router.std() == pytest.approx(1.0, rel=0.02)
    experts = RandomWeights(0).stored(weight("layers.0.experts.down_proj", 4, 512, 64, dtype=DType.F32).sources[0])
    assert experts.std() == pytest.approx(64**-0.5, rel=0.02)


def test_random_matrices_look_normal() -> None:
    sample = RandomWeights(3).stored(weight("a.weight", 1000, 1000, dtype=DType.F32).sources[0]).reshape(-1) * 1000**0.5
    for sigma, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert np.mean(np.abs(sample) < sigma) == pytest.approx(share, abs=0.003)
    rows = sample.reshape(1000, 1000)
    assert np.abs(np.corrcoef(rows[:200]) - np.eye(200)).max() < 0.2


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (1 << 20,), (3, 524_289)])
def test_random_weights_of_odd_sizes(shape: tuple[int, ...]) -> None:
    array = RandomWeights(0).stored(weight("a.weight", *shape).sources[0])
    assert array.shape == shape
    assert is_aligned(array)
    assert np.isfinite(array.astype(np.float32)).all()


def test_random_weights_take_little_more_than_their_result() -> None:
    source = weight("a.weight", 4096, 8192).sources[0]
    RandomWeights(0).stored(weight("b.weight", 4, 4).sources[0])
    tracemalloc.start()
    array = RandomWeights(0, threads=2).stored(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes + (16 << 20)


def test_packed_weights_read_back(tmp_path: Path) -> None:
    path = tmp_path / "weights" / "rank-0.safetensors"
    store = tiny_store()
    size = pack_weights(path, store, {"format": "g4c"})
    assert path.stat().st_size == size
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    packed = open_packed(path, store.weights)
    assert set(packed) == set(store)
    for name, array in store.items():
        assert np.array_equal(packed[name], array), name
        assert not packed[name].flags.writeable
        assert packed[name].flags.aligned
        assert array.nbytes % 64 or packed[name].ctypes.data % 64 == 0, name


def test_packed_files_are_valid_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    store = store_of(
        weight("a", 3),
        weight("b", 64, 2),
        weight("c", 1),
        weight("d", 5, dtype=DType.F32),
        weight("e", 0),
        weight("f", 2, 8),
    )
    path = tmp_path / "w.safetensors"
    pack_weights(path, store)
    loaded = load_file(path)
    assert set(loaded) == set(store)
    for name, array in store.items():
        assert np.array_equal(loaded[name], array)
    packed = open_packed(path)
    assert all(packed[name].flags.aligned for name in packed)


def test_packing_keeps_one_tensor_in_memory(tmp_path: Path) -> None:
    store = store_of(*(weight(f"w{i}.weight", 1024, 2048) for i in range(16)))
    store["w0.weight"]
    tracemalloc.start()
    pack_weights(tmp_path / "w", store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * (1024 * 2048 * 2) + (16 << 20)
    assert store.nbytes == 16 * 1024 * 2048 * 2


def folded_and_fused(name: str, rows: int, columns: int, parts: int) -> Weight:
    """`parts` projections of one input, each times that input's norm weight, as one matrix."""
    norm = Source(f"{name}.norm.weight", TensorType((columns,), BF16))
    sources = [(Source(f"{name}.{i}", TensorType((rows, columns), BF16)), norm) for i in range(parts)]
    scaled = [Weight(pair[0].key, pair, transforms=(Scale(1),)) for pair in sources]
    return Weight.joined(name, scaled, Concat(0))


def test_fused_weights_are_packed(tmp_path: Path) -> None:
    store = store_of(weight("a.weight", 8, 64), folded_and_fused("qkv", 8, 64, 3), weight("b.weight", 64))
    pack_weights(tmp_path / "w", store)
    packed, drawn = open_packed(tmp_path / "w", store.weights), RandomWeights(0)
    norm = drawn.stored(weight("qkv.norm.weight", 64).sources[0]).astype(np.float32)
    parts = [drawn.stored(weight(f"qkv.{i}", 8, 64).sources[0]).astype(np.float32) for i in range(3)]
    wanted = (np.concatenate(parts) * norm).astype(ml_dtypes.bfloat16)
    assert np.array_equal(packed["qkv"].view(np.uint16), wanted.view(np.uint16))
    assert np.array_equal(packed["a.weight"], store["a.weight"])
    assert is_aligned(packed["qkv"])


def test_tensors_are_told_from_packed_weights(tmp_path: Path) -> None:
    """Projections carry the norm that was folded into them; what is there as it was comes as it was, without a copy."""
    plain, table = weight("a.weight", 8, 64), weight("table", 16, 64)
    half = table.then(Slice(0, 0, 8), name="half")
    gone = weight("gone", 8, 64).then(Slice(0, 0, 4), name="part")
    store = store_of(plain, folded_and_fused("qkv", 8, 64, 3), table, half, gone)
    pack_weights(tmp_path / "w", store)
    packed = open_packed(tmp_path / "w", store.weights)
    tensors, drawn = PackedTensors(packed, store.weights), RandomWeights(0)

    def source(key: str, *shape: int) -> Source:
        return Source(key, TensorType(shape, BF16))

    for key, rows in (("a.weight", 8), ("table", 16)):
        assert np.array_equal(tensors.stored(source(key, rows, 64)), drawn.stored(source(key, rows, 64)))
    norm = drawn.stored(source("qkv.norm.weight", 64)).astype(np.float32)
    for i in range(3):
        wanted = drawn.stored(source(f"qkv.{i}", 8, 64)).astype(np.float32) * norm
        found = tensors.stored(source(f"qkv.{i}", 8, 64))
        assert np.array_equal(found, wanted.astype(ml_dtypes.bfloat16))
        assert not found.flags.owndata
    assert np.array_equal(tensors.stored(source("qkv.norm.weight", 64)), np.ones(64))
    for key in ("gone", "absent"):
        with pytest.raises(G4cError) as caught:
            tensors.stored(source(key, 8, 64))
        assert caught.value.code == "G4C-R006"


def test_a_norm_that_is_folded_here_and_kept_there_cannot_be_told() -> None:
    """Ones would not give the weights that have it as it is."""
    store = store_of(folded_and_fused("qkv", 8, 64, 1), weight("qkv.norm.weight", 64))
    tensors = PackedTensors(dict(store), store.weights)
    with pytest.raises(G4cError) as caught:
        tensors.stored(Source("qkv.norm.weight", TensorType((64,), BF16)))
    assert caught.value.code == "G4C-R006"


def test_packing_a_fused_weight_takes_its_size_twice(tmp_path: Path) -> None:
    """Its parts and the result; not the parts before they are scaled, and no whole matrix in f32."""
    store = store_of(*(folded_and_fused(f"w{i}", 1024, 2048, 3) for i in range(4)))
    store["w0"]
    tracemalloc.start()
    pack_weights(tmp_path / "w", store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * (3 * 1024 * 2048 * 2) + (16 << 20)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "w.safetensors"
    path.write_text("before")
    for call in ("posix_fallocate", "write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(G4cError) as caught:
                pack_weights(path, store_of(weight("a", 8)))
        assert caught.value.code == "G4C-R002"
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert path.read_text() == "before"


def test_a_really_full_device_is_reported() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


class Interrupting(Mapping[str, Weight]):
    """A table of weights whose second lookup is interrupted."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self.weights = weights
        self.lookups = 0

    def __getitem__(self, name: str) -> Weight:
        self.lookups += 1
        if self.lookups > len(self.weights) * 2 + 1:
            raise KeyboardInterrupt
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def test_an_interrupted_pack_leaves_nothing(tmp_path: Path) -> None:
    weights = {name: weight(name, 8) for name in "abc"}
    store = WeightStore(Interrupting(weights), RandomWeights(0))
    with pytest.raises(KeyboardInterrupt):
        pack_weights(tmp_path / "w", store)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(G4cError) as caught:
        pack_weights(tmp_path / "file" / "w", store_of(weight("a", 8)))
    assert caught.value.code == "G4C-R003"


def test_bad_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "w"
    store = store_of(weight("a", 8), weight("b", 64))
    pack_weights(path, store)

    def code(weights: Mapping[str, Weight] | None = None) -> str:
        with pytest.raises(G4cError) as caught:
            open_packed(path, weights)
        return caught.value.code

    assert code({"c": weight("c", 8)}) == "G4C-R005"
    assert code({"a": weight("a", 9)}) == "G4C-R005"
    assert code({"a": weight("a", 8, dtype=DType.F16)}) == "G4C-R005"
    path.write_bytes(path.read_bytes()[:-1])
    assert code() == "G4C-R004"
    path.unlink()
    assert code() == "G4C-R004"
