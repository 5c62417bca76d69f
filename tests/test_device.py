"""Where and how torch computes."""

import os

import pytest
import torch

from fullyconv import device as device_module
from fullyconv.device import choose_device, choose_precision, instruction_set, move, seed_everything, set_threads
from fullyconv.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored():
    """Leave the number of threads and the generator as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")


def has(monkeypatch, *extensions):
    """Pretend that the processor has these instructions and no other."""
    monkeypatch.setattr(device_module, "_has_instructions", lambda name: name in extensions)


def test_auto_is_the_processor_where_there_is_nothing_else(without_cuda):
    assert choose_device("auto") == CPU


def test_auto_is_cuda_where_it_is_there(with_cuda):
    assert choose_device("auto") == torch.device("cuda")


def test_a_device_can_be_chosen_by_its_number(with_cuda):
    assert choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "meta"])
def test_a_device_that_is_not_there_is_refused_with_a_way_out(without_cuda, name):
    with pytest.raises(UsageError, match=rf"device '{name}' is not available to torch .* \(use --device cpu\)"):
        choose_device(name)


def test_a_number_beyond_the_devices_is_refused(with_cuda):
    with pytest.raises(UsageError, match="device 'cuda:2' is not available"):
        choose_device("cuda:2")


def test_a_name_that_is_no_device_is_refused():
    with pytest.raises(UsageError, match="device has to be auto, cpu, cuda or mps, got 'gpu'"):
        choose_device("gpu")


def test_precisions_are_found_by_name():
    assert choose_precision("float32", CPU) is torch.float32
    assert choose_precision("bfloat16", CPU) is torch.bfloat16


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="precision has to be auto, float32 or bfloat16, got 'half'"):
        choose_precision("half", CPU)


@pytest.mark.parametrize(
    ("extensions", "precision"),
    [((), torch.float32), (("vnni",), torch.float32), (("avx512_bf16",), torch.bfloat16)],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(monkeypatch, extensions, precision):
    has(monkeypatch, *extensions)
    assert choose_precision("auto", CPU) is precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_is_bfloat16_on_cuda_devices_that_have_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) is precision


def test_the_instruction_set_names_everything_that_decides_bits(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    has(monkeypatch, "avx512_bf16", "vnni")
    assert instruction_set() == "AVX512+vnni+avx512_bf16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert instruction_set(CPU) == "AVX512+vnni+avx512_bf16+AVX2"


def test_the_instruction_set_of_a_cuda_device_is_its_model(with_cuda):
    assert instruction_set(torch.device("cuda")) == "NVIDIA H200"


def test_instructions_that_torch_cannot_be_asked_about_are_not_there():
    assert device_module._has_instructions("of_the_future") is False
    assert isinstance(device_module._has_instructions("avx512_bf16"), bool)


def test_threads_are_set():
    assert set_threads(3) == torch.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not say")
def test_no_number_of_threads_takes_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    assert set_threads(None) == len(os.sched_getaffinity(0))


def test_no_number_of_threads_leaves_the_environment_in_charge(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert set_threads(None) == 3


def test_no_threads_at_all_are_refused():
    with pytest.raises(UsageError, match="threads has to be at least 1, got 0"):
        set_threads(0)


def test_the_same_seed_draws_the_same():
    seed_everything(1, 2)
    first = torch.rand(3)
    seed_everything(1, 2)
    assert torch.equal(torch.rand(3), first)


def test_every_seed_and_epoch_draws_something_else():
    drawn = set()
    for seed in (0, 1, 2, 2**20):
        for epoch in range(50):
            seed_everything(seed, epoch)
            drawn.add(torch.randint(2**62, ()).item())
    assert len(drawn) == 200


def test_what_is_on_a_device_already_is_not_copied():
    values = torch.arange(3)
    assert move(values, CPU) is values


def test_to_cuda_memory_is_pinned_first():
    class Values:
        device, steps = CPU, []

        def pin_memory(self):
            self.steps.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            self.steps.append((device.type, non_blocking))
            return self

    assert move(Values(), torch.device("cuda")).steps == ["pinned", ("cuda", True)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("count", [0, 5])
def test_values_arrive_on_cuda(count):
    values = torch.arange(count)
    moved = move(values, torch.device("cuda"))
    assert moved.device.type == "cuda"
    assert torch.equal(moved.cpu(), values)
