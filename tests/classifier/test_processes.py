"""Several processes that train together: shares of a batch, the weights of one process, one of them killed."""

import os
import signal

import pytest
import torch
import torch.nn.functional as F
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from torch.utils.data import TensorDataset

from src.classifier.features import load_batches
from src.files import load_tensors
from tests.classifier.conftest import CPU, events, fresh, train, weights

pytestmark = pytest.mark.usefixtures("quick_figure")


@pytest.mark.parametrize(("count", "size", "processes"), [(34, 8, 2), (33, 8, 2), (33, 8, 3), (12, 4, 4), (5, 2, 4)])
@pytest.mark.parametrize("seed", [None, 3])
def test_shares_make_up_the_batches_of_one_process(count, size, processes, seed):
    dataset = TensorDataset(torch.arange(count))

    def batches(share):
        order = None if seed is None else torch.Generator().manual_seed(seed)
        return [batch.tolist() for (batch,) in load_batches(dataset, size, device=CPU, generator=order, share=share)]

    whole, shares = batches(slice(None)), [batches(slice(i, None, processes)) for i in range(processes)]
    assert sorted(sum(whole, [])) == list(range(count))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(sum(parts[: len(batch)], [])) == sorted(batch)  # each picture once
        assert parts[len(batch) :] == [batch[:1]] * (processes - len(batch))  # stand-ins, which do not count


def work(table, config, folder, killed_at):
    """What each of the processes does; one of them may be killed at its loss of some number."""
    AcceleratorState._reset_state(True)  # of the process that this one is a copy of
    torch.set_num_threads(1)
    plain, calls, rank = F.cross_entropy, [], torch.distributed.get_rank()

    def count(*arguments, **options):
        calls.append(1)
        if len(calls) == killed_at and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **options)

    F.cross_entropy = count
    model = fresh(config)
    result = train(model, table, config, folder)
    torch.save({"weights": model.state_dict(), "result": vars(result)}, folder / f"{rank}.pt")


@pytest.fixture
def two(table, config):
    """Trains by two processes on 33 pictures: the last batch of one picture leaves the second without a share."""
    table = table.drop(index=table.index[table["part"] == "train"][33:])
    config = config.but(dropout=0.0, feature_blocks=(1, 3), accumulate_batches=2)

    def run(folder, *, killed_at=None, **changes):
        folder.mkdir(exist_ok=True)
        debug_launcher(work, (table, config.but(**changes), folder, killed_at))
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]

    return run, table, config


@pytest.mark.parametrize("mode", ["all", "head"])
def test_two_processes_give_the_weights_of_one(two, tmp_path, mode):
    run, table, config = two
    model, changes = fresh(config), {"train_mode": mode}
    before = weights(model)
    wanted = train(model, table, config.but(**changes), tmp_path / "one")
    first, second = run(tmp_path / "two", **changes)
    for name, tensor in model.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        change, other = tensor - before[name], first["weights"][name] - before[name]
        if "qkv.bias" in name:  # a key's bias changes no attention: its gradient is rounding alone
            change, other = (torch.cat(each.chunk(3)[::2]) for each in (change, other))
        # Not value by value: Adam scales up single gradients that are next to nothing too.
        assert (other - change).norm() <= 0.02 * change.norm(), name
    history = first["result"]["history"]
    for column in ("loss_train", "loss_val", "acc_train", "acc_val", "lr"):
        assert list(history[column]) == pytest.approx(list(wanted.history[column]), rel=1e-3)
    assert first["result"]["best_epoch"] == second["result"]["best_epoch"] == wanted.best_epoch
    assert [each["result"]["is_main_process"] for each in (first, second)] == [True, False]


def test_what_is_left_after_a_killed_process_goes_on(two, tmp_path):
    run, _, _ = two
    wanted, _ = run(tmp_path / "straight", head_epochs=1)
    with pytest.raises(Exception, match="SIGKILL"):
        run(tmp_path / "broken", head_epochs=1, killed_at=14)  # 6 losses an epoch: in the second of all weights
    assert len(load_tensors(tmp_path / "broken" / "models" / "tiny.training.pt")["history"]) == 1
    resumed, _ = run(tmp_path / "broken", head_epochs=1)
    for name, tensor in wanted["weights"].items():
        torch.testing.assert_close(resumed["weights"][name], tensor, atol=1e-6, rtol=1e-5)
    curve = events(tmp_path / "straight" / "logs" / "tiny")
    assert [event.step for event in curve.Scalars("Loss/val")] == [1, 2, 3]
    files = (tmp_path / "straight" / "logs" / "tiny").glob("events*")
    assert len({file.name.split(".")[-2] for file in files}) == 1  # the process that wrote
