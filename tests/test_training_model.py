"""A step of training: each term, each network, and precision."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from box_spine import BoxCohort
from small_training import model_with_batch

from data.slice_cache import SliceStore
from models.losses import ObjectiveWeights
from options.train_options import TERMS


def test_the_same_seed_gives_the_same_first_losses(boxes: BoxCohort, store: SliceStore) -> None:
    found = []
    for seed in (0, 0, 1):
        model = model_with_batch(boxes, store, f"--seed={seed}")
        model.optimize_parameters()
        found.append({name: float(value) for name, value in model.losses.items()})
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("generator", ["residual", "published"])
@pytest.mark.parametrize("term", [field.name for field in fields(ObjectiveWeights)])
def test_each_term_moves_the_generator(boxes: BoxCohort, store: SliceStore, generator: str,
                                       term: str) -> None:
    flags = [f"--lambda_{name}={float(name == term)}" for name in TERMS]
    model = model_with_batch(boxes, store, *flags, f"--netG={generator}", "--ngf=4")
    model.build_sample()
    output = model.generator(model.seen)
    terms = model.objective_terms(output, model.compose_true(output.ct))
    assert list(terms) == [term]
    terms[term].backward()
    gradients = [parameter.grad for parameter in model.generator.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0.0


def test_a_step_moves_every_network_and_only_its_own_loss_does(boxes: BoxCohort, store: SliceStore) -> None:
    model = model_with_batch(boxes, store)
    before = {name: [parameter.clone() for parameter in network.parameters()]
              for name, network in model.networks.items()}
    for _ in range(3):  # heads that begin at zero let nothing through in the first step, blocks in the second
        model.optimize_parameters()
    for name, network in model.networks.items():
        pairs = zip(before[name], network.parameters(), strict=True)
        moved = [not torch.equal(old, new) for old, new in pairs]
        assert np.mean(moved) > 0.9, name
    gradients = [parameter.grad.clone() for parameter in model.networks["discriminators"].parameters()]
    terms = model.objective_terms(model.generator(model.seen), model.truth.ct)
    terms["gan"].backward()  # the generator's own loss leaves the discriminators' gradients as they were
    for old, parameter in zip(gradients, model.networks["discriminators"].parameters(), strict=True):
        assert torch.equal(old, parameter.grad)


def test_without_adversaries_there_are_none(boxes: BoxCohort, store: SliceStore) -> None:
    model = model_with_batch(boxes, store, "--lambda_gan=0")
    model.optimize_parameters()
    assert list(model.networks) == ["generator"]
    assert "gan" not in model.losses


def test_losses_fall_on_a_batch(boxes: BoxCohort, store: SliceStore) -> None:
    model = model_with_batch(boxes, store, "--lambda_gan=0", "--lr=0.002")
    totals = []
    for _ in range(12):
        model.optimize_parameters()
        totals.append(float(model.losses["total"]))
    assert totals[-1] < 0.7 * totals[0]


def test_mixed_precision_stays_near_full_precision(boxes: BoxCohort, store: SliceStore) -> None:
    losses = []
    for flags in ([], ["--amp"]):
        model = model_with_batch(boxes, store, *flags)
        model.optimize_parameters()
        losses.append(model.losses)
        assert all(value.dtype == torch.float32 for value in model.losses.values())
    for name, value in losses[0].items():
        assert float(losses[1][name]) == pytest.approx(float(value), rel=0.05, abs=0.01), name
