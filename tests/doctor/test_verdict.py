from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from mistaken import MISTAKES, MORE_MISTAKES, opengl_as_opencv, with_poses, with_views
from real_scenes import PLACES, judged, mendings, pairs_of, real_scene, thin_scene

from reloc.contract import Run
from reloc.doctor.verdict import check_conventions, judge
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes import LoadOptions
from reloc.scenes.scene import Scene, View

ALL_MISTAKES = MISTAKES | MORE_MISTAKES


def assert_named(test, expected: tuple[str, ...]) -> None:
    assert test.verdict == "mistaken", test
    found = mendings(test)
    assert len(found) == len(expected), found
    for mending, option in zip(found, expected, strict=True):
        assert option in mending


class TestSyntheticRoom:
    """Exact poses: what is named is the mistake, and nothing but it."""

    def test_exact_poses_are_sound(self, room):
        test = judged(room, room)
        assert test.verdict == "sound"
        assert mendings(test) == ()
        assert test.errors.given_px < 1.5 * test.errors.attainable_px
        assert test.focal.factor == pytest.approx(1.0, abs=0.01)
        assert test.focal.low <= test.focal.factor <= test.focal.high
        # Its depth maps are exact, too.
        assert test.depth_ratio == pytest.approx(1.0, abs=0.02)

    @pytest.mark.parametrize("name", ["inverse", "axes", "focal"])
    def test_a_mistake_is_named(self, room, name):
        spoil, expected = ALL_MISTAKES[name]
        test = judged(room, spoil(room))
        assert_named(test, expected)
        sound = judged(room, room)
        assert test.likeliest.error_px < 1.2 * sound.errors.given_px

    def test_poses_of_other_images_are_not_explained(self, room):
        views = list(room.mapping)
        poses = [view.cam_from_world for view in views]
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(views), generator=generator).tolist()
        mixed = [
            replace(view, cam_from_world=poses[place])
            for view, place in zip(views, order, strict=True)
        ]
        test = judged(room, replace(room, mapping=mixed))
        assert test.verdict == "unexplained"
        assert test.likeliest.mistakes == ()

    def test_queries_of_another_world_show_between_the_two(self, room):
        other_from_world = Rigid3d.exp(torch.tensor([0.1, 0.5, 0.2, 1.0, 2.0, 0.5]).double())
        moved = [
            replace(view, cam_from_world=view.cam_from_world @ other_from_world.inverse())
            for view in room.queries
        ]
        errors = judged(room, replace(room, queries=moved)).errors
        sound = judged(room, room).errors
        assert errors.across_px > 20 * sound.across_px
        assert sound.across_px < 2 * sound.attainable_px

    def test_one_turned_image_is_found(self, room):
        name = _with_most_pairs(room)

        def turn(view: View) -> View:
            if view.name != name:
                return view
            return replace(view, image_reader=lambda: view.read_image().flip(-1, -2))

        spoilt = with_views(room, turn)
        test = check_conventions(spoilt, Run())
        assert test.verdict == "sound"
        assert [(view, turn.mending) for view, turn in test.turned_views] == [(name, "--half-turn")]
        assert test.stray_views == ()

    def test_one_wrong_pose_is_found(self, room):
        name = _with_most_pairs(room)
        off = Rigid3d.exp(torch.tensor([0.0, 0.4, 0.1, 0.5, 0.0, 0.3]).double())

        def move(view: View) -> View:
            return (
                replace(view, cam_from_world=off @ view.cam_from_world)
                if view.name == name
                else view
            )

        test = judged(room, with_views(room, move))
        assert test.verdict == "sound"
        assert test.stray_views == (name,)


def _with_most_pairs(scene: Scene) -> str:
    pairs = pairs_of(scene)
    counts = pairs.views_2P.flatten().bincount(minlength=len(pairs.views))
    return pairs.views[int(counts.argmax())].name


class TestWhatCannotBeTested:
    """There is an answer, with its reason, and never a traceback."""

    @staticmethod
    def _verdict(mapping: list[View], queries: tuple[View, ...] = ()) -> str:
        test = check_conventions(Scene("few", mapping, queries, "given"), Run())
        assert test.verdict == "untested"
        assert test.likeliest is None
        return test.reason

    def test_no_view(self):
        assert self._verdict([]) == "0 images could be read, and it takes two"

    def test_one_view(self, room):
        assert "1 images could be read" in self._verdict([room.mapping[0]])

    def test_two_views(self, room):
        reason = self._verdict(list(room.mapping[:2]))
        assert "only 1 pair" in reason or "no two" in reason

    def test_views_that_share_nothing(self, room):
        noise = torch.Generator().manual_seed(0)
        views = [replace(view, image_reader=lambda: _noise(noise)) for view in room.mapping[:5]]
        assert "share enough" in self._verdict(views)

    @pytest.mark.parametrize("size", [(240, 320), (1, 1), (3, 2000)])
    def test_no_texture(self, room, size):
        black = torch.zeros(3, *size, dtype=torch.uint8)
        views = [replace(view, image_reader=lambda: black) for view in room.mapping[:4]]
        assert self._verdict(views) == "0 of 4 images have texture to match"

    def test_unreadable_images(self, room):
        def refuse():
            raise InputError("image x.jpg is missing")

        views = [replace(view, image_reader=refuse) for view in room.mapping]
        assert "0 images could be read" in self._verdict(views)

    def test_a_camera_that_does_not_move(self, room):
        image = room.mapping[0].read_image()
        views = [replace(view, image_reader=lambda: image) for view in room.mapping[:6]]
        assert "hardly moves" in self._verdict(views)

    def test_poses_without_extent(self, room):
        pose = room.mapping[0].cam_from_world
        test = judged(room, with_poses(room, lambda _: pose))
        assert (test.verdict, test.reason) == ("untested", "all views have the same pose")

    def test_poses_far_out(self, room):
        far = Rigid3d(torch.eye(3).double(), torch.tensor([5e6, 4e5, 100.0]).double())
        test = judged(room, with_poses(room, lambda pose: pose @ far.inverse()))
        assert test.verdict == "sound"


def _noise(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 256, (3, 240, 320), generator=generator).to(torch.uint8)


@pytest.mark.data
class TestRedKitchen:
    """The scene and the mistakes that are made with it, on its own images."""

    def test_poses_of_sfm_are_sound(self, shared_data):
        kitchen = real_scene(shared_data, "redkitchen")
        test = judged(kitchen, kitchen)
        assert test.verdict == "sound"
        assert mendings(test) == ()
        # The notes of the data say 0.47 px, of other pairs.
        assert test.errors.given_px == pytest.approx(0.47, rel=0.2)
        assert test.focal.focal_px == pytest.approx(525.5, rel=0.01)
        assert test.stray_views == test.turned_views == ()
        # Depth maps and poses have one unit.
        assert test.depth_ratio == pytest.approx(1.0, abs=0.03)

    def test_raw_poses_with_the_depth_cameras_focal_length(self, shared_data):
        raw = real_scene(shared_data, "redkitchen", LoadOptions(ground_truth="raw"))
        assert {float(view.camera.focal[0]) for view in raw.mapping} == {585.0}
        test = judged(real_scene(shared_data, "redkitchen"), raw)
        assert test.errors.given_px == pytest.approx(3.3, rel=0.2)
        assert_named(test, ("--focal 525",))
        assert test.likeliest.error_px == pytest.approx(1.69, rel=0.2)

    def test_poses_of_the_depth_slam_are_rough_and_no_more(self, shared_data):
        slam = real_scene(shared_data, "redkitchen", LoadOptions(ground_truth="d-slam"))
        test = judged(real_scene(shared_data, "redkitchen"), slam)
        assert test.verdict == "rough"
        assert mendings(test) == ()
        assert test.errors.given_px == pytest.approx(1.85, rel=0.2)

    @pytest.mark.parametrize("name", MISTAKES)
    def test_mistakes_are_named(self, shared_data, name):
        kitchen = real_scene(shared_data, "redkitchen")
        spoil, expected = MISTAKES[name]
        test = judged(kitchen, spoil(kitchen))
        assert_named(test, expected)
        assert test.likeliest.error_px < 0.6 < 0.1 * test.errors.given_px


@pytest.mark.data
class TestPhotoCollections:
    """No video: unordered walks, arbitrary scale, distortion."""

    @pytest.mark.parametrize("place", ["south_building", "fox"])
    def test_sound_data_is_not_accused(self, shared_data, place):
        scene = thin_scene(shared_data, place)
        test = judged(scene, scene)
        assert test.verdict == "sound"
        assert mendings(test) == ()
        assert test.errors.given_px < 0.6
        assert test.focal.factor == pytest.approx(1.0, abs=0.01)

    def test_unflipped_axes_are_named(self, shared_data):
        fox = thin_scene(shared_data, "fox")
        test = judged(fox, opengl_as_opencv(fox))
        assert_named(test, ("--axes opengl",))
        assert test.likeliest.error_px < 0.6


@pytest.mark.data
@pytest.mark.slow
class TestEveryMistakeOnWholeScenes:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("name", ALL_MISTAKES)
    def test_it_is_named(self, shared_data, place, name):
        scene = real_scene(shared_data, place)
        spoil, expected = ALL_MISTAKES[name]
        test = judged(scene, spoil(scene))
        assert_named(test, expected)
        assert test.likeliest.error_px < 0.6
        if expected[-1] == "--focal":
            true_px = float(scene.mapping[0].camera.focal.mean())
            named_px = float(mendings(test)[-1].removeprefix("--focal "))
            assert named_px == pytest.approx(true_px, rel=0.01)

    @pytest.mark.parametrize("place", PLACES)
    def test_sound_data_is_not_accused(self, shared_data, place):
        scene = real_scene(shared_data, place)
        test = judged(scene, scene)
        assert test.verdict == "sound"
        assert test.errors.given_px < 0.6
        assert test.focal.factor == pytest.approx(1.0, abs=0.01)
        assert math.isfinite(test.depth)


def test_scenes_of_many_cameras_have_no_one_focal_length(room):
    pairs = pairs_of(room)
    focals_px = torch.linspace(280, 300, len(pairs.views))
    views = [
        replace(view, camera=Camera.simple_pinhole(float(focal), 320, 240))
        for view, focal in zip(pairs.views, focals_px, strict=True)
    ]
    test = judge(replace(room, mapping=views, queries=()), replace(pairs, views=views))
    assert test.focal is None or test.focal.focal_px is None
