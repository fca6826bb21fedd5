"""What holds for every model that ships: its config is checked, its losses are the contract's."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

from frameworm.config import Section
from frameworm.core import get_model
from frameworm.errors import UserError
from frameworm.models import CNN, GAN, MLP, VAE

MODELS = ("cnn", "mlp", "vae")


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(6, 1, 8, 8), torch.arange(6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "config", [{}, {"model": {}}, {"model": {"name": "it"}, "data": 1}, Section({"model": {"name": "it"}})]
)
def test_the_digits_need_no_options(name: str, config: Any) -> None:
    """Without options, from a dict or a section, a model takes a batch of digits; its loss has gradients."""
    model = get_model(name)(config)
    outputs = model.compute_loss(*_batch())
    assert outputs["loss"].shape == ()
    outputs["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(value.requires_grad for key, value in outputs.items() if key != "loss")


@pytest.mark.parametrize("name", [*MODELS, "gan"])
def test_a_misspelt_option_offers_the_nearest(name: str) -> None:
    """A key that the model does not have would otherwise go unnoticed."""
    with pytest.raises(UserError, match=f"model '{name}' has no option 'chanels'"):
        get_model(name)({"model": {"name": name, "chanels": 1}})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cnn", {"width": 0}, "'width' of model 'cnn'(.|\n)*at least 1"),
        ("cnn", {"dropout": 1.0}, "'dropout' of model 'cnn'"),
        ("cnn", {"size": 1}, "'size' of model 'cnn'(.|\n)*at least 2"),
        ("mlp", {"hidden": [64, "wide"]}, "'hidden' of model 'mlp'(.|\n)*a whole number"),
        ("mlp", {"loss": "huber"}, "'loss' of model 'mlp'(.|\n)*mse"),
        ("vae", {"latent_dim": 1.5}, "'latent_dim' of model 'vae'(.|\n)*a whole number"),
        ("vae", {"beta": -1}, "'beta' of model 'vae'(.|\n)*at least 0"),
        ("gan", {"dropout": 1}, "'dropout' of model 'gan'"),
    ],
)
def test_a_wrong_value_names_its_option(name: str, options: dict[str, Any], message: str) -> None:
    """Type and range are checked when the model is made."""
    with pytest.raises(UserError, match=message):
        get_model(name)({"model": options})


@pytest.mark.parametrize("config", [None, {"model": "cnn"}])
def test_a_config_is_a_mapping_of_sections(config: Any) -> None:
    """The error shows what a model takes."""
    with pytest.raises(UserError, match="takes a config"):
        CNN(config)


@pytest.mark.parametrize(
    "model", [CNN({}), MLP({"model": {"inputs": 3}}), VAE({}), GAN({})], ids=lambda model: type(model).__name__
)
def test_samples_of_another_shape_are_refused(model: CNN | MLP | VAE | GAN) -> None:
    """The error says which shape the options promise and which one came."""
    with pytest.raises(UserError, match="the data does not fit") as caught:
        model.compute_loss(torch.rand(2, 3, 9, 9), torch.zeros(2).long())
    assert caught.value.expected is not None
    assert caught.value.got is not None


@pytest.mark.parametrize("model", [CNN, MLP])
def test_supervised_models_need_targets(model: type[CNN | MLP]) -> None:
    """A batch of inputs alone is an error that says so."""
    with pytest.raises(UserError, match=r"learns from targets(.|\n)*x alone"):
        model({}).compute_loss(_batch()[0])


@pytest.mark.parametrize("name", [*MODELS, "gan"])
def test_models_survive_pickling(name: str) -> None:
    """A model can go to another process."""
    model = get_model(name)({})
    copy = pickle.loads(pickle.dumps(model))
    assert all(map(torch.equal, model.state_dict().values(), copy.state_dict().values()))


def test_the_cnn_takes_images_of_other_sizes() -> None:
    """Channels, size and classes are options."""
    model = CNN({"model": {"channels": 3, "size": 9, "classes": 4, "width": 2}})
    assert model(torch.rand(5, 3, 9, 9)).shape == (5, 4)


def test_the_cnns_loss_is_the_cross_entropy_of_its_predictions() -> None:
    """`predictions` are the logits that the loss was computed from."""
    x, y = _batch()
    outputs = CNN({}).eval().compute_loss(x, y)
    assert outputs["predictions"].shape == (6, 10)
    assert torch.equal(outputs["loss"], nn.functional.cross_entropy(outputs["predictions"], y))


def test_the_mlp_is_a_linear_map_without_hidden_layers() -> None:
    """`hidden: []` leaves one layer."""
    model = MLP({"model": {"inputs": 3, "hidden": [], "outputs": 2}})
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(2, 3), (2,)]


def test_the_mlp_does_regression() -> None:
    """With `loss: mse` the loss is the mean squared error, for targets of any number type."""
    model = MLP({"model": {"inputs": 3, "outputs": 2, "loss": "mse"}})
    x, y = torch.rand(4, 3), torch.ones(4, 2, dtype=torch.int64)
    outputs = model.compute_loss(x, y)
    assert outputs["loss"].item() == pytest.approx(((outputs["predictions"] - 1) ** 2).mean().item())


def test_the_mlp_never_broadcasts_targets() -> None:
    """(n,) fits a single output as (n, 1) does; any other difference is an error."""
    model = MLP({"model": {"inputs": 3, "outputs": 1, "loss": "mse"}})
    x, y = torch.rand(4, 3), torch.rand(4)
    assert torch.equal(model.compute_loss(x, y)["loss"], model.compute_loss(x, y[:, None])["loss"])
    with pytest.raises(UserError, match=r"targets of shape \(4, 1\)"):
        model.compute_loss(x, torch.rand(4, 2))


def test_the_vaes_loss_is_its_parts() -> None:
    """Reconstruction plus beta times KL."""
    outputs = VAE({"model": {"beta": 0.5}}).compute_loss(_batch()[0])
    assert outputs["loss"].item() == pytest.approx((outputs["reconstruction"] + 0.5 * outputs["kl"]).item())


def test_the_vaes_kl_is_that_of_the_two_gaussians() -> None:
    """The closed form equals what torch.distributions computes."""
    model, (x, _) = VAE({}), _batch()
    mean, log_variance = model.encode(x)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    exact: torch.Tensor = torch.distributions.kl_divergence(posterior, prior)
    assert model.compute_loss(x)["kl"].item() == pytest.approx(exact.sum(1).mean().item(), rel=1e-4)


def test_the_vae_samples_and_reconstructs_images() -> None:
    """New images, and old ones, in 0..1, without a graph for the new ones."""
    model = VAE({"model": {"channels": 3, "size": 4, "latent_dim": 2}})
    images = model.sample(5)
    assert (images.shape, images.dtype, images.requires_grad) == ((5, 3, 4, 4), torch.float32, False)
    assert images.min() >= 0
    assert images.max() <= 1
    assert model(images).shape == images.shape


@pytest.mark.parametrize("name", [*MODELS, "gan"])
def test_bf16_gives_a_finite_loss(name: str) -> None:
    """Under autocast, losses stay 0-dim and finite."""
    model = get_model(name)({})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.compute_loss(*_batch())["loss"]
    assert loss.isfinite()


def test_the_gans_sides_have_losses_of_their_own() -> None:
    """The discriminator's gives the generator no gradient; each is that of binary cross entropies."""
    model, (x, _) = GAN({}), _batch()
    outputs = model.compute_loss(x, optimizer="discriminator")
    outputs["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert all(parameter.grad is not None for parameter in model.discriminator.parameters())
    assert outputs["loss"].item() == pytest.approx(0.693, abs=0.05)  # log 2: it cannot tell yet
    assert 0 < outputs["real"].item() < 1
    model.compute_loss(x, optimizer="generator")["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.generator.parameters())
    with pytest.raises(UserError, match="optimizer of model 'gan': 'critic'"):
        model.compute_loss(x, optimizer="critic")


def test_the_gan_samples_images() -> None:
    """In 0..1, without a graph."""
    images = GAN({"model": {"channels": 3, "size": 4}}).eval().sample(5)
    assert (images.shape, images.dtype, images.requires_grad) == ((5, 3, 4, 4), torch.float32, False)
    assert 0 <= images.min() <= images.max() <= 1
