"""Matchers: their layers' names, the laws that hold for any weights, and the papers' formulas."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from matcher_weights import random_matcher, similarity_matcher
from reloc.input_error import InputError
from reloc.nn import matchers
from reloc.nn.local_features import LocalFeatures, quantised
from reloc.nn.matchers import ImageKeypoints, Matches, load_matcher
from reloc.nn.matchers.keypoints import mutual_matches
from reloc.nn.matchers.lightglue import LAYERS, LightGlue, turned
from reloc.nn.matchers.superglue import SuperGlue, transported
from reloc.nn.weights import PUBLISHED, WEIGHTS_VARIABLE

KINDS = [LightGlue, SuperGlue]
NUM_COMMON = 30


@pytest.fixture(scope="module")
def pair() -> tuple[ImageKeypoints, ImageKeypoints]:
    """Two images; the first keypoints of both, in order, are of the same things."""
    generator = torch.Generator().manual_seed(0)

    def image(descriptors_ND: Tensor, width: int) -> ImageKeypoints:
        count = len(descriptors_ND)
        return ImageKeypoints(
            torch.rand(count, 2, generator=generator) * torch.tensor([width, 480]),
            torch.nn.functional.normalize(descriptors_ND, dim=1),
            torch.rand(count, generator=generator),
            (width, 480),
        )

    common = torch.randn(NUM_COMMON, 256, generator=generator)
    noisy = common + 0.3 * torch.randn(NUM_COMMON, 256, generator=generator)
    return (
        image(torch.cat([common, torch.randn(11, 256, generator=generator)]), 640),
        image(torch.cat([noisy, torch.randn(7, 256, generator=generator)]), 400),
    )


@pytest.fixture(scope="module", params=KINDS)
def network(request):
    return random_matcher(request.param)


def _order(image: ImageKeypoints, order: Tensor) -> ImageKeypoints:
    return replace(
        image,
        keypoints_N2=image.keypoints_N2[order],
        descriptors_ND=image.descriptors_ND[order],
        scores_N=image.scores_N[order],
    )


def _probabilities(matches: Matches) -> dict[tuple[int, int], float]:
    rows = zip(matches.pairs_M2.tolist(), matches.probability_M.tolist(), strict=True)
    return {(first, second): probability for (first, second), probability in rows}


def _assert_same(found: dict, expected: dict, atol: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=atol)


def test_layers_have_the_names_and_shapes_of_the_published_weights() -> None:
    with torch.device("meta"):
        light, glue = LightGlue().state_dict(), SuperGlue().state_dict()
    shapes = {name: tuple(value.shape) for name, value in {**light, **glue}.items()}
    assert shapes["posenc.Wr.weight"] == (32, 2)
    assert shapes["self_attn.8.Wqkv.weight"] == (768, 256)
    assert shapes["self_attn.0.ffn.3.weight"] == (256, 512)
    assert shapes["cross_attn.0.to_qk.bias"] == shapes["cross_attn.8.to_out.bias"] == (256,)
    assert shapes["log_assignment.8.matchability.weight"] == (1, 256)
    assert shapes["token_confidence.7.token.0.weight"] == (1, 256)
    assert "token_confidence.8.token.0.weight" not in shapes
    assert shapes["kenc.encoder.0.weight"] == (32, 3, 1)
    assert shapes["kenc.encoder.12.weight"] == (256, 256, 1)
    assert shapes["gnn.layers.17.attn.proj.2.weight"] == (256, 256, 1)
    assert shapes["gnn.layers.0.attn.merge.bias"] == shapes["final_proj.bias"] == (256,)
    assert shapes["gnn.layers.0.mlp.1.running_var"] == (512,)
    assert shapes["gnn.layers.0.mlp.3.weight"] == (256, 512, 1)
    assert shapes["bin_score"] == ()
    # The published file has 47.5 million bytes, 4 for each of these and some for 251 names.
    assert (len(light), sum(value.numel() for value in light.values())) == (251, 11_851_601)


def test_matches_do_not_depend_on_the_order_of_keypoints(network, pair) -> None:
    first, second = pair
    plain = _probabilities(network(first, second))
    assert len(plain) >= 20
    order = torch.randperm(len(second), generator=torch.Generator().manual_seed(1))
    moved = _probabilities(network(first, _order(second, order)))
    _assert_same({(one, int(order[two])): value for (one, two), value in moved.items()}, plain)


def test_exchanged_images_have_the_same_matches_in_lightglue(pair) -> None:
    network = random_matcher(LightGlue)
    plain = _probabilities(network(*pair))
    swapped = _probabilities(network(*pair[::-1]))
    _assert_same({(one, two): value for (two, one), value in swapped.items()}, plain)


def test_exchanged_images_have_the_same_states_in_superglue(pair) -> None:
    """The matches are the same only once Sinkhorn's iterations, which end with columns, settle."""
    network = random_matcher(SuperGlue)
    states = [image.descriptors_ND.T[None] + network.kenc(image) for image in pair]
    first, second = network.gnn(*states)
    again_second, again_first = network.gnn(*states[::-1])
    torch.testing.assert_close(again_first, first)
    torch.testing.assert_close(again_second, second)


def test_matches_are_one_to_one_and_mutual(network, pair) -> None:
    pairs_M2 = network(*pair).pairs_M2
    assert all(len(column.unique()) == len(column) for column in pairs_M2.T)
    table = torch.tensor([[0.9, 0.8, 0.0], [0.7, 0.75, 0.1], [0.2, 0.0, 0.05]])
    assert mutual_matches(table, 0.1).pairs_M2.tolist() == [[0, 0]]
    assert mutual_matches(table[1:], 0.1).pairs_M2.tolist() == [[0, 1]]
    assert len(mutual_matches(table, 0.95)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_where_layers_change_nothing_the_most_similar_match(kind, pair) -> None:
    found = _probabilities(similarity_matcher(kind)(*pair))
    right = [(index, index) for index in range(NUM_COMMON)]
    assert sum(match in found for match in right) >= 28
    # SuperGlue's dustbins take the others; these weights of LightGlue let all of them match.
    assert sum(match not in right for match in found) <= (0 if kind is SuperGlue else 3)


def test_only_differences_of_positions_count_in_lightglue(pair) -> None:
    network = random_matcher(LightGlue)
    first, second = pair
    shifted = replace(first, keypoints_N2=first.keypoints_N2 + torch.tensor([35.0, -20.0]))
    _assert_same(_probabilities(network(shifted, second)), _probabilities(network(first, second)))
    # Where the states say more of whom to attend to, positions do, too.
    network.self_attn[0].Wqkv.weight.mul_(30)
    stretched = replace(first, keypoints_N2=first.keypoints_N2 * torch.tensor([0.5, 1.0]))
    plain, same, other = (
        network.self_attn[0](image.descriptors_ND, network.posenc(image.from_centre(0.5)))
        for image in (first, shifted, stretched)
    )
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-4)
    assert float((other - plain).abs().max()) > 1e-2


def test_inner_products_of_turned_vectors_depend_on_the_difference_of_angles() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key = torch.randn(2, 4, 5, 64, generator=generator)
    angles, offset = 3 * torch.randn(2, 5, 32, generator=generator)
    plain = (turned(query, angles) * key).sum(-1)
    moved = (turned(query, angles + offset) * turned(key, offset)).sum(-1)
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(turned(query, angles).norm(dim=-1), query.norm(dim=-1))


def test_the_size_of_pixels_does_not_matter(network, pair) -> None:
    first, second = pair
    width, height = first.size
    # The corner of the image stays: it lies half a pixel before the first centre.
    finer = replace(
        first, keypoints_N2=3 * (first.keypoints_N2 - 0.5) + 0.5, size=(3 * width, 3 * height)
    )
    _assert_same(_probabilities(network(finer, second)), _probabilities(network(first, second)))


def test_scores_of_keypoints_count_in_superglue(pair) -> None:
    network = random_matcher(SuperGlue)
    first, second = pair
    other = network(replace(first, scores_N=1 - first.scores_N), second)
    plain = network(first, second)
    assert _probabilities(other) != pytest.approx(_probabilities(plain), abs=1e-4)


def test_transport_gives_each_keypoint_a_mass_of_one() -> None:
    scores = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    mass = transported(scores, torch.tensor(0.5), 300).exp()
    torch.testing.assert_close(mass.sum(0), torch.tensor([1.0, 1, 1, 1, 6]), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        mass.sum(1), torch.tensor([1.0, 1, 1, 1, 1, 1, 4]), rtol=0, atol=1e-3
    )
    exchanged = transported(scores.T, torch.tensor(0.5), 300).exp()
    torch.testing.assert_close(exchanged, mass.T, rtol=0, atol=1e-3)


def test_lightglue_ends_when_it_is_sure(pair) -> None:
    network = similarity_matcher(LightGlue)
    slow, num_layers = network.match_and_count_layers(*pair)
    assert num_layers == LAYERS
    torch.nn.init.constant_(network.token_confidence[2].token[0].bias, 10.0)
    quick, num_layers = network.match_and_count_layers(*pair)
    assert num_layers == 3
    _assert_same(_probabilities(quick), _probabilities(slow))


def test_lightglue_drops_what_it_is_sure_has_no_match(pair) -> None:
    network = similarity_matcher(LightGlue)
    # The first channel says both "sure" and "cannot match".
    for confidence in network.token_confidence:
        confidence.token[0].weight[0, 0] = 60.0
    for assignment in network.log_assignment:
        assignment.matchability.weight[0, 0] = -60.0
    first, second = (replace(image, descriptors_ND=image.descriptors_ND.clone()) for image in pair)
    for image in (first, second):
        image.descriptors_ND[:, 0] = 0
        image.descriptors_ND[::3, 0] = 1
    seen = []
    network.self_attn[LAYERS - 1].register_forward_hook(
        lambda module, given, result: seen.append(len(result))
    )
    found, num_layers = network.match_and_count_layers(first, second)
    assert num_layers == LAYERS
    assert seen == [len(image) - (len(image) + 2) // 3 for image in (first, second)]
    # Of those that are left, numbered as they were.
    right = [[index, index] for index in range(NUM_COMMON) if index % 3]
    assert [pair_2 for pair_2 in found.pairs_M2.tolist() if pair_2[0] < NUM_COMMON] == right


def test_an_image_without_keypoints_has_no_matches(network, pair) -> None:
    nothing = _order(pair[0], torch.zeros(0, dtype=torch.int64))
    for images in ((nothing, pair[1]), (pair[0], nothing), (nothing, nothing)):
        assert network(*images).pairs_M2.shape == (0, 2)


def test_features_without_scores_are_refused() -> None:
    features = LocalFeatures(torch.rand(3, 2), torch.zeros(3, 256), torch.ones(3))
    with pytest.raises(InputError, match="superpoint"):
        ImageKeypoints.of(features, (4, 4))
    vectors = torch.nn.functional.normalize(torch.randn(3, 256), dim=1)
    scored = replace(features, descriptors_ND=quantised(vectors), scores_N=torch.rand(3))
    torch.testing.assert_close(
        ImageKeypoints.of(scored, (4, 4)).descriptors_ND, vectors, rtol=0, atol=1 / 256
    )


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    """A folder of weights, and files of any content taken for the published ones."""
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    for name in ("lightglue", "superglue", "superglue-indoor"):
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], sha256=None))
    load_matcher.cache_clear()
    yield tmp_path
    load_matcher.cache_clear()


@pytest.mark.parametrize(
    ("name", "kind"), [("lightglue", LightGlue), ("superglue-indoor", SuperGlue)]
)
def test_weights_of_the_published_names_are_loaded(name, kind, pair, weights_folder) -> None:
    network = random_matcher(kind, seed=1)
    torch.save(network.state_dict(), weights_folder / PUBLISHED[name].file)
    _assert_same(_probabilities(load_matcher(name)(*pair)), _probabilities(network(*pair)), 1e-6)


@pytest.mark.parametrize("name", ["lightglue", "superglue", "superglue-indoor"])
def test_missing_or_other_weights_are_one_line(name, weights_folder, monkeypatch) -> None:
    path = weights_folder / PUBLISHED[name].file
    with pytest.raises(InputError, match=re.escape(PUBLISHED[name].address)) as caught:
        load_matcher(name)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    torch.save({"final_proj.weight": torch.zeros(256, 256)}, path)
    with pytest.raises(InputError, match=f"weights of {name} do not fit") as caught:
        load_matcher(name)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], sha256="0" * 64))
    with pytest.raises(InputError, match="not the file that was published"):
        load_matcher(name)


def test_published_matchers_are_for_superpoint() -> None:
    matchers.check_matcher("nearest", "sift")
    matchers.check_matcher("lightglue", "superpoint")
    with pytest.raises(ValueError, match="superpoint"):
        matchers.check_matcher("superglue", "sift")
