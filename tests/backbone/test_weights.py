"""Weights files of strangers: heads and wrappings are taken off, what does not fit is refused, no code runs."""

import argparse
import json
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.backbone.vit import NotATransformerError, WeightsError, load_backbone
from src.backbone.weights import read_state
from tests.conftest import Touch


def network(name="test_vit", **options):
    torch.manual_seed(5)
    return timm.create_model(name, **{"num_classes": 0, "img_size": 48} | options)


def load(file, name="test_vit"):
    return load_backbone(name, str(file), image_size=48)


def same(backbone, state):
    return all(torch.equal(tensor, state[key]) for key, tensor in backbone.network.state_dict().items())


def test_the_head_of_the_hubs_file_is_left_out_with_a_message(tmp_path, caplog):
    state = network(num_classes=1000).state_dict()
    assert state["head.weight"].shape == (1000, 64)
    save_file(state, tmp_path / "model.safetensors")
    assert same(load(tmp_path / "model.safetensors"), state)
    assert "model.safetensors" in caplog.text and "head.weight" in caplog.text


def test_two_heads_are_left_out(tmp_path, caplog):
    state = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7).state_dict()
    save_file(state, tmp_path / "deit.safetensors")
    left = set(state) - set(read_state("deit_tiny_distilled_patch16_224", tmp_path / "deit.safetensors"))
    assert left == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrapped_network_is_unwrapped(tmp_path, prefix):
    state = network(num_classes=5).state_dict()
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "parallel.pth")
    assert same(load(tmp_path / "parallel.pth"), state)


@pytest.mark.parametrize("averaged", [True, False])
def test_a_checkpoint_of_timms_training(tmp_path, averaged):
    plain, ema = network(num_classes=5).state_dict(), {k: v + 1 for k, v in network(num_classes=5).state_dict().items()}
    options = argparse.Namespace(model="test_vit", lr=0.1)
    content = {"epoch": 3, "arch": "test_vit", "state_dict": plain, "args": options, "version": 2, "metric": 61.2}
    content |= {"optimizer": {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}}
    torch.save(content | ({"state_dict_ema": ema} if averaged else {}), tmp_path / "last.pth.tar")
    assert same(load(tmp_path / "last.pth.tar"), ema if averaged else plain)


@pytest.mark.parametrize("content", [{}, {"head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)}])
def test_a_file_without_a_backbone_does_not_become_that_of_the_hub(tmp_path, monkeypatch, content):
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("asked the network"))
    torch.save(content, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="empty.pth"):
        load(tmp_path / "empty.pth")


# -- for another network or other pictures --------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_patches_of_another_size_are_refused(tmp_path, suffix):
    file, state = tmp_path / f"eight.{suffix}", network(patch_size=8, img_size=24).state_dict()
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    with pytest.raises(WeightsError, match=r"eight.*patches of \(8, 8\) px, test_vit of \(16, 16\)"):
        load(file)


def test_inputs_of_another_size_are_welcome(tmp_path):
    save_file(network(img_size=96).state_dict(), tmp_path / "large.safetensors")
    assert load(tmp_path / "large.safetensors").image_size == 48


@pytest.mark.parametrize("where", ["config", "metadata"])
def test_another_mean_or_deviation_is_refused(tmp_path, where):
    file, usual = tmp_path / "model.safetensors", network().pretrained_cfg
    for key, value, refused in (
        ("mean", list(usual["mean"]), False),
        ("mean", [0.1, 0.2, 0.3], True),
        ("std", [0.9, 0.9, 0.9], True),
        ("std", "no numbers", True),
    ):
        save_file(network().state_dict(), file, {key: json.dumps(value)} if where == "metadata" else None)
        if where == "config":
            (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": {key: value}}))
        if refused:
            with pytest.raises(WeightsError, match=r"model\.safetensors"):
                load(file)
        else:
            load(file)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"pretrained_cfg": 3}', "\0\x80"])
def test_a_broken_config_beside_a_file_is_named(tmp_path, text):
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(WeightsError, match=r"config\.json beside it cannot be read"):
        load(tmp_path / "model.safetensors")


def test_values_that_are_not_finite_are_refused(tmp_path):
    for name, value in (("nan", torch.nan), ("inf", torch.inf)):
        state = network().state_dict()
        state["blocks.2.mlp.fc1.weight"][3, 3] = value
        save_file(state, tmp_path / f"{name}.safetensors")
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        for file in (f"{name}.safetensors", f"{name}.pth"):
            with pytest.raises(WeightsError, match=f"{file}.*blocks.2.mlp.fc1.weight.* not finite"):
                load(tmp_path / file)


# -- hostile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "legacy", "nested"])
def test_code_is_not_run_and_torchs_advice_to_run_it_not_passed_on(tmp_path, form):
    content = network().state_dict() | {"norm.bias": Touch(tmp_path / "ran")}
    content = {"state_dict": content, "args": Touch(tmp_path / "ran")} if form == "nested" else content
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(WeightsError, match="evil.pth.*may run code") as caught:
        load(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize(
    "name", ["hf-hub:someone/model", "hf_hub:a/b", "local-dir:/tmp", "https://x.org/a", "a/b", "no_vit"]
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_name_that_is_not_timms_contacts_nothing(monkeypatch, name, pretrained):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("asked timm"))
    with pytest.raises(NotATransformerError, match="no plain Vision Transformer of timm"):
        load_backbone(name, "timm", pretrained=pretrained)
