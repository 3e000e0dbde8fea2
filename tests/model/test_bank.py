"""What the denoiser is trained on: images, scaling, ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.distillation.encoder import Posterior
from ldpol.distillation.targets import latent_dataset
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.image import image, image_shape, read_image


@pytest.mark.parametrize("measures", [1, 2, 3, 4])
def test_an_image_holds_latent_and_measures(measures):
    latent, wanted = jax.random.normal(jax.random.key(0), (2, 2, 3)), jnp.linspace(0.1, 0.9, measures)
    painted = image(latent, wanted)
    assert painted.shape == (2, 2, 4)
    found, told = read_image(painted, measures)
    np.testing.assert_array_equal(found, latent)
    np.testing.assert_allclose(told, wanted, rtol=1e-6)


def test_measures_are_means_over_their_places():
    """Three measures in four places: the first has two of them."""
    painted = jnp.array([[[0.0, 0.2], [0.0, 0.5]], [[0.0, 0.7], [0.0, 0.4]]])
    np.testing.assert_allclose(read_image(painted, 3)[1], [0.3, 0.5, 0.7], rtol=1e-6)


def test_too_many_measures_for_a_latent():
    with pytest.raises(ValueError, match="no room for 5 measures"):
        image(jnp.zeros((2, 2, 1)), jnp.zeros(5))


@pytest.mark.parametrize("octaves", [0, 5])
def test_a_bank_is_standard_and_leads_back(octaves):
    """Every channel has variance 1, noise included; a decoder that sees no measures gets no channel for them."""
    config = AutoencoderConfig(latent=(2, 2, 1), octaves=octaves)
    rng = np.random.default_rng(0)
    mean, measures = jnp.asarray(rng.normal(3.0, 2.0, (50, 2, 2, 1))), jnp.asarray(rng.random((50, 2)))
    deviation = jnp.asarray(rng.random((50, 2, 2, 1)))
    bank, scaling = latent_dataset(
        config, Posterior(mean, deviation), measures, noise=0.01, weights=jnp.ones(50), fitness=np.arange(50.0)[::-1]
    )
    assert bank.mean.shape[1:] == bank.deviation.shape == scaling.centre.shape == image_shape(config)
    np.testing.assert_allclose((bank.mean**2 + bank.deviation[None] ** 2).mean((0, 1, 2)), 1.0, rtol=1e-5)
    images = jax.vmap(scaling.apply)(bank.mean)
    np.testing.assert_allclose(images[..., :1], mean, atol=1e-5)
    if octaves:
        np.testing.assert_allclose(jax.vmap(lambda one: read_image(one, 2)[1])(images), measures, atol=1e-5)
        np.testing.assert_allclose(bank.deviation[..., 1] * scaling.scale[1], 0.01 * np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(bank.quality, (np.arange(50)[::-1] + 0.5) / 50, rtol=1e-6)
