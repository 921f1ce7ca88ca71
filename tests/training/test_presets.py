"""Which recipe, encoder and grid a machine gets."""

import pytest

from kitlib.models import encoders
from kitlib.training import presets, recipes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, recipes.short()),
        ({"accelerators": 2}, recipes.paper()),
        ({"preset": "strong"}, recipes.strong()),
        ({"preset": "encoder"}, recipes.encoder("efficientnet-lite0")),
        ({"preset": "encoder", "accelerators": 1}, recipes.encoder("efficientnetv2-s")),
        ({"name": "convnext-tiny", "accelerators": 1}, recipes.encoder("convnext-tiny")),
    ],
)
def test_a_machine_or_an_encoder_chooses_the_recipe(arguments, expected):
    assert presets.choose(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "encoders"}, "preset is 'encoders'; choose one of paper, .*encoder"),
        ({"name": "resnet"}, "encoder is 'resnet'; choose one of efficientnet-lite0, "),
        (
            {"preset": "short", "name": "efficientnet-lite0"},
            "encoder is 'efficientnet-lite0', but the preset is 'short'",
        ),
    ],
)
def test_a_choice_that_does_not_exist_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        presets.choose(**arguments)


def test_the_suggested_grids_have_the_proportions_of_the_box():
    for accelerators in (0, 1):
        name, (height, width) = presets.suited(accelerators)
        assert presets.grid("encoder", accelerators) == (height, width)
        assert name in encoders.NAMES
        assert (height % 32, width % 32, width / height) == (0, 0, 1.5)
