"""Every key of LTX-Video's configs, in both forms, with values of every wrong kind: a sentence and no other error."""

import pytest

from mlx_video.models.ltx_video.config import T5Config, TransformerConfig, VideoVAEConfig, diffusers
from mlx_video.types import UserError
from tests.models.test_config_values import WRONG
from tests.support import small_ltx_video as small

NEWER = small.VAE["0.9.5"]
OFFICIAL = {version: small.config(version) for version in small.VERSIONS}
FORMS = {
    "transformer": (OFFICIAL["0.9.5"]["transformer"], lambda x: TransformerConfig.read({"transformer": x})),
    "diffusers' transformer": (
        small.TRANSFORMER,
        lambda x: TransformerConfig.read({"transformer": diffusers.transformer(x, NEWER, "here")}),
    ),
    "text encoder": (small.T5_CONFIG, T5Config.read),
    **{f"vae {name}": (said["vae"], lambda x: VideoVAEConfig.read({"vae": x})) for name, said in OFFICIAL.items()},
    **{
        f"diffusers' vae {name}": (said, lambda x: VideoVAEConfig.read({"vae": diffusers.video_vae(x, "here")}))
        for name, said in small.VAE.items()
    },
}
"""Form -> values that are right, and what reads them."""


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_value_is_one_sentence(form) -> None:
    values, read = FORMS[form]
    read(values)
    told = []
    for key, value in values.items():
        for wrong in WRONG[type(value)]:
            try:
                read({**values, key: wrong})
            except UserError as error:
                told.append(str(error))
    assert len(told) > 5 * len(values)
    assert all(len(sentence) < 400 and "\n" not in sentence for sentence in told)
