"""The two attentions: against a slow reference, against reference vectors, their laws, and the layer contract.

Shapes are distinct primes where the layers allow it, so that a swapped axis cannot pass.
"""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kitlib.layers.attention import ChannelNormalization, ExternalAttention, LocalWindowAttention

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)

# Keras on PyTorch takes parts of a float64 computation in float32.
EXACT, GOLDEN = (1e-3, 1e-3) if keras.backend.backend() == "torch" else (1e-12, 1e-10)
WINDOW = {"heads": 5, "window": 3}
EXTERNAL = {"heads": 7, "expansion": 2, "memory": 11}


def softmax(x, axis):
    """The textbook's, shifted so that nothing overflows."""
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def dense(x, weights):
    """x W + b."""
    return x @ weights[0] + weights[1]


def window_reference(maps, weights, heads, window, swap=False, bare=False, axis=-1):
    """Table 1 of the paper, square by square and head by head; the last three arguments make it wrong on purpose."""
    result = np.empty_like(maps)
    size = maps.shape[-1] // heads
    for b in range(maps.shape[0]):
        for top in range(0, maps.shape[1], window):
            for left in range(0, maps.shape[2], window):
                square = (b, slice(top, top + window), slice(left, left + window))
                tokens = maps[square].reshape(window * window, -1)
                query, key, value = (dense(tokens, weights[name]) for name in ("query", "key", "value"))
                if swap:
                    query, key = key, query
                context = np.empty_like(tokens)
                for h in range(heads):
                    if bare:
                        q, k, v = (x.reshape(heads, window * window, size)[h] for x in (query, key, value))
                    else:
                        q, k, v = (x[:, h * size : (h + 1) * size] for x in (query, key, value))
                    head = softmax(q @ k.T / np.sqrt(size), axis) @ v
                    if bare:
                        context.reshape(heads, window * window, size)[h] = head
                    else:
                        context[:, h * size : (h + 1) * size] = head
                result[square] = dense(context, weights["project"]).reshape(window, window, -1)
    return result


def external_reference(tokens, weights, heads, eps=1e-9, axis=0, norm=True, bare=False, shared=True):
    """Table 2 of the paper, sample by sample and head by head; the last four arguments make it wrong on purpose."""
    result = np.empty_like(tokens)
    if not shared:  # statistics over the whole batch
        result[:] = external_reference(tokens.reshape(1, -1, tokens.shape[-1]), weights, heads).reshape(tokens.shape)
        return result
    for b, sample in enumerate(tokens):
        query = dense(sample, weights["query"])
        size = query.shape[-1] // heads
        context = np.empty_like(query)
        for h in range(heads):
            block = slice(h * size, (h + 1) * size)
            q = query.reshape(heads, -1, size)[h] if bare else query[:, block]
            shares = softmax(dense(q, weights["memory_keys"]), axis)
            if norm:
                shares = shares / (eps + shares.sum(-1, keepdims=True))
            context[:, block] = dense(shares, weights["memory_values"])
        result[b] = dense(context, weights["project"])
    return result


def randomise(layer, shape, seed=0):
    """Build a layer and fill all its weights, biases too, with noise; return them by sublayer."""
    rng = np.random.default_rng(seed)
    layer.build(shape)
    weights = {}
    for name in ("query", "key", "value", "memory_keys", "memory_values", "project"):
        if hasattr(layer, name):
            sublayer = getattr(layer, name)
            weights[name] = [rng.normal(0, 0.7, w.shape) for w in sublayer.get_weights()]
            sublayer.set_weights(weights[name])
    return weights


def run(layer, maps):
    """The layer's output as a NumPy array."""
    return ops.convert_to_numpy(layer(ops.convert_to_tensor(maps, dtype=layer.compute_dtype)))


def window_case(dtype="float64", shape=(2, 9, 6, 35)):
    layer = LocalWindowAttention(**WINDOW, dtype=dtype)
    return layer, randomise(layer, shape), np.random.default_rng(1).normal(size=shape)


def external_case(dtype="float64", shape=(3, 13, 35)):
    layer = ExternalAttention(**EXTERNAL, dtype=dtype)
    return layer, randomise(layer, shape), np.random.default_rng(1).normal(size=shape)


# Parity


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="sides are unknown in TensorFlow's graphs alone")
def test_misfit_found_when_the_graph_runs_is_refused():
    import tensorflow as tf

    layer = LocalWindowAttention(heads=2)
    layer(np.ones((2, 8, 8, 4), "float32"))
    run = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 4))])
    fitting = np.random.default_rng(0).normal(size=(2, 8, 12, 4)).astype("float32")
    np.testing.assert_allclose(run(fitting), layer(fitting), atol=1e-5)
    for shape in ((2, 6, 8, 4), (2, 8, 6, 4)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            run(np.ones(shape, "float32"))


def test_window_attention_agrees_with_the_papers_table():
    layer, weights, maps = window_case()
    np.testing.assert_allclose(run(layer, maps), window_reference(maps, weights, **WINDOW), atol=EXACT)


def test_external_attention_agrees_with_the_papers_table():
    layer, weights, tokens = external_case()
    np.testing.assert_allclose(run(layer, tokens), external_reference(tokens, weights, heads=7), atol=EXACT)


@pytest.mark.parametrize("wrong", [{"swap": True}, {"bare": True}, {"axis": 0}], ids=str)
def test_a_wrong_window_attention_is_found_out(wrong):
    layer, weights, maps = window_case()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(run(layer, maps), window_reference(maps, weights, **WINDOW, **wrong), atol=1e-3)


@pytest.mark.parametrize("wrong", [{"axis": 1}, {"norm": False}, {"bare": True}, {"shared": False}], ids=str)
def test_a_wrong_external_attention_is_found_out(wrong):
    layer, weights, tokens = external_case()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(run(layer, tokens), external_reference(tokens, weights, heads=7, **wrong), atol=1e-3)


@pytest.mark.parametrize("case", [window_case, external_case])
def test_float32_agrees_with_float64(case):
    (wide, _, maps), (narrow, _, _) = case(), case("float32")
    expected = run(wide, maps)
    np.testing.assert_allclose(run(narrow, maps), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", [window_case, external_case])
@pytest.mark.parametrize(("dtype", "step"), [("mixed_float16", 2**-10), ("mixed_bfloat16", 2**-7)])
def test_mixed_precision_agrees_to_its_own_rounding(case, dtype, step):
    (wide, _, maps), (narrow, _, _) = case(), case(dtype)
    expected, found = run(wide, maps), run(narrow, maps).astype("float64")
    assert np.abs(found - expected).max() < 16 * step * np.abs(expected).max()


def test_large_float16_scores_give_no_nan():
    layer, _, tokens = external_case("mixed_float16", shape=(1, 4096, 35))
    assert np.isfinite(run(layer, 5 * tokens).astype("float32")).all()


@pytest.mark.parametrize("name", ["mea_a_S2HS", "mea_c_S2HS_small", "win_a_8x8", "lsa_a"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_published_layers_agree(name, dtype):
    folder = os.environ.get("KITLIB_GOLDEN")
    if not folder:
        pytest.skip("KITLIB_GOLDEN is not set: no vectors of the published layers to test with")
    vectors = np.load(Path(folder) / f"{name}.npz")
    x, y, w, dx = (vectors[key] for key in ("x", "y", "w", "dx"))
    if name.startswith(("win", "lsa")):
        layer, prefix = LocalWindowAttention(2, dtype=dtype), "attention." if name.startswith("win") else ""
        names = {"query": "query_layer", "key": "key_layer", "value": "value_layer", "project": "out"}
        # win_a takes a map and gives windows; lsa_a takes windows too.
        y, w = from_squares(y), from_squares(w)
        x, dx = (from_squares(z) if name == "lsa_a" else z.reshape(-1, 8, 8, z.shape[-1]) for z in (x, dx))
    else:
        layer, prefix = ExternalAttention(heads_of(vectors), dtype=dtype), ""
        names = {"query": "query_liner", "memory_keys": "linear_0", "memory_values": "linear_1", "project": "proj"}
    layer.build(x.shape)
    for ours, theirs in names.items():
        key = f"param.{prefix}{theirs}"
        getattr(layer, ours).set_weights([vectors[f"{key}.weight"].T, vectors[f"{key}.bias"]])
    found, slope = with_gradient(layer, x.astype(dtype), w.astype(dtype))
    near = {"rtol": 0, "atol": GOLDEN} if dtype == "float64" else {"rtol": 1e-4, "atol": 2e-5}
    np.testing.assert_allclose(found, y, **near)
    np.testing.assert_allclose(slope, dx, **near)


def heads_of(vectors):
    """The number of heads, from the width of the queries and the size of a head."""
    return vectors["param.query_liner.weight"].shape[0] // vectors["param.linear_0.weight"].shape[1]


def from_squares(squares):
    """(B, 2, 2, 16, C) or (B, 2 * 2, 16, C) -> (B, 8, 8, C), slowly."""
    squares = squares.reshape(-1, 2, 2, 16, squares.shape[-1])
    b, rows, columns, _, c = squares.shape
    maps = np.empty((b, 4 * rows, 4 * columns, c))
    for r in range(rows):
        for k in range(columns):
            maps[:, 4 * r : 4 * r + 4, 4 * k : 4 * k + 4] = squares[:, r, k].reshape(b, 4, 4, c)
    return maps


def with_gradient(layer, x, w):
    """Output, and gradient of sum(output * w) with respect to the input, on whichever backend runs."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.Variable(x)
        with tf.GradientTape() as tape:
            y = layer(x)
            total = ops.sum(y * w)
        return y.numpy(), tape.gradient(total, x).numpy()
    if backend == "jax":
        return np.asarray(layer(x)), np.asarray(jax.grad(lambda x: ops.sum(layer(x) * w))(ops.convert_to_tensor(x)))
    x = ops.convert_to_tensor(x)
    x.requires_grad_(True)
    y = layer(x)
    ops.sum(y * ops.convert_to_tensor(w)).backward()
    return y.detach().cpu().numpy(), x.grad.cpu().numpy()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras on PyTorch takes parts of float64 in float32")
@pytest.mark.parametrize("case", [window_case, external_case])
def test_gradient_agrees_with_finite_differences(case):
    layer, _, maps = case()
    w = np.random.default_rng(2).normal(size=maps.shape)
    slope = with_gradient(layer, maps, w)[1]
    for place in [(0,) * maps.ndim, tuple(n - 1 for n in maps.shape)]:
        step = np.zeros_like(maps)
        step[place] = 1e-5
        difference = ((run(layer, maps + step) - run(layer, maps - step)) * w).sum() / 2e-5
        np.testing.assert_allclose(slope[place], difference, rtol=1e-6, atol=1e-8)


# Laws


def test_a_change_in_one_window_changes_that_window_only():
    layer, _, maps = window_case()
    other = maps.copy()
    other[1, 4, 5] += 1
    changed = np.abs(run(layer, other) - run(layer, maps)).max(-1) > EXACT
    assert changed[1, 3:6, 3:6].all()
    assert changed.sum() == 9


def test_external_attention_follows_a_permutation_of_positions():
    layer, _, tokens = external_case()
    order = np.random.default_rng(3).permutation(tokens.shape[1])
    np.testing.assert_allclose(run(layer, tokens[:, order]), run(layer, tokens)[:, order], atol=EXACT)


def test_external_attention_takes_maps_as_tokens_row_by_row():
    layer, _, tokens = external_case(shape=(3, 14, 35))
    maps = tokens.reshape(3, 2, 7, 35)
    np.testing.assert_array_equal(run(layer, maps).reshape(tokens.shape), run(layer, tokens))


@pytest.mark.parametrize("case", [window_case, external_case])
def test_samples_do_not_see_each_other(case):
    layer, _, maps = case()
    np.testing.assert_allclose(run(layer, maps[1:2]), run(layer, maps)[1:2], atol=EXACT)


def test_eps_zero_is_the_papers_letter():
    tokens = np.random.default_rng(1).normal(size=(2, 5, 6))
    layer = ExternalAttention(heads=3, eps=0, dtype="float64")
    weights = randomise(layer, tokens.shape)
    assert layer.memory_keys.kernel.shape == (8, 16)  # memory = 2 * size, size = 4 * 6 / 3
    np.testing.assert_allclose(run(layer, tokens), external_reference(tokens, weights, heads=3, eps=0), atol=EXACT)


def test_eps_zero_gives_nan_where_all_shares_underflow():
    tokens = np.array([[[0.0], [-1e4]]])
    kernels = {"query": [[1.0] * 4], "memory_keys": np.ones((4, 2)), "memory_values": np.ones((2, 4))}
    for eps, finite in ((0, False), (1e-9, True)):
        layer = ExternalAttention(heads=1, memory=2, eps=eps, use_bias=False, dtype="float64")
        layer.build(tokens.shape)
        for name, kernel in kernels.items():
            getattr(layer, name).set_weights([np.array(kernel)])
        assert np.isfinite(run(layer, tokens)).all() == finite


# The layer contract


@pytest.mark.parametrize("layer", [LocalWindowAttention(**WINDOW), ExternalAttention(**EXTERNAL)])
def test_config_makes_the_same_layer(layer):
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    shape = (2, 9, 6, 35)
    for one in (layer, twin):
        one.build(shape)
    assert [w.shape for w in twin.weights] == [w.shape for w in layer.weights]
    assert layer.compute_output_shape(shape) == shape


@pytest.mark.parametrize("kind", [LocalWindowAttention, ExternalAttention])
def test_no_bias_leaves_kernels_only(kind):
    layer = kind(heads=2, use_bias=False)
    maps = np.ones((1, 4, 4, 6), "float32")
    assert run(layer, maps).shape == maps.shape
    assert len(layer.weights) == 4
    assert not any("bias" in weight.path for weight in layer.weights)
    layer, biased = kind(heads=2, use_bias=False), kind(heads=2)
    maps = np.random.default_rng(1).normal(size=maps.shape)
    biased.build(maps.shape)
    for name, (kernel,) in randomise(layer, maps.shape).items():
        getattr(biased, name).set_weights([kernel, np.zeros(kernel.shape[1])])
    np.testing.assert_allclose(run(layer, maps), run(biased, maps), atol=1e-5)


def test_saved_layers_come_back_in_safe_mode(tmp_path):
    image = keras.Input((None, None, 10))
    maps = LocalWindowAttention(heads=5, window=3)(ChannelNormalization(epsilon=1e-6)(image))
    model = keras.Model(image, ExternalAttention(heads=8, memory=3)(maps))
    model.save(tmp_path / "model.keras")
    twin = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    maps = np.random.default_rng(0).normal(size=(2, 6, 9, 10)).astype("float32")
    compiled = model.predict(maps, verbose=0)
    np.testing.assert_allclose(run(twin, maps), compiled, atol=1e-5)
    np.testing.assert_allclose(run(model, maps), compiled, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 9, 7, 35), (2, 8, 6, 35)])
def test_a_side_that_does_not_divide_is_named(shape):
    side = next(n for n in shape[1:3] if n % 3)
    with pytest.raises(ValueError, match=rf"(height|width) {side} .*window\s+3"):
        LocalWindowAttention(heads=5, window=3)(np.zeros(shape, "float32"))


@pytest.mark.parametrize("kind", [LocalWindowAttention, ExternalAttention])
def test_channels_that_do_not_divide_are_named(kind):
    with pytest.raises(ValueError, match=r"10 channels.* are not divisible by 7 heads"):
        kind(heads=7)(np.zeros((1, 4, 4, 10), "float32"))


def test_external_attention_refuses_other_ranks():
    with pytest.raises(ValueError, match=r"expected \(B, N, C\) or \(B, H, W, C\)"):
        ExternalAttention(heads=2)(np.zeros((1, 2, 3, 4, 4), "float32"))


# The normalisation in front of them


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_channel_normalisation_is_layer_normalisation(dtype):
    maps = np.random.default_rng(0).normal(3, 2, (2, 5, 7, 11))
    ours, keras_own = (
        kind(epsilon=1e-6, dtype=dtype) for kind in (ChannelNormalization, keras.layers.LayerNormalization)
    )
    for layer in (ours, keras_own):
        layer.build(maps.shape)
        layer.set_weights([np.linspace(-1, 2, 11), np.linspace(3, 1, 11)])
    tolerance = EXACT if dtype == "float64" else 1e-5
    np.testing.assert_allclose(run(ours, maps), run(keras_own, maps), atol=tolerance)
    w = np.random.default_rng(1).normal(size=maps.shape).astype(dtype)
    pair = [with_gradient(layer, maps.astype(dtype), w)[1] for layer in (ours, keras_own)]
    np.testing.assert_allclose(*pair, atol=tolerance)
