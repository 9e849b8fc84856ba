"""Images as the relative family sees them: codes on a grid of one size, rays, and a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.methods.relative.focal import known_focal_ratio, with_focal
from reloc.nn.encoder import STRIDE, cell_centers, grey_from_rgb
from reloc.nn.precision import autocast
from reloc.nn.shared_encoder import FrozenEncoder
from reloc.scenes.scene import View

# Standard deviation, in grey values, below which an image shows nothing: black, or overexposed.
_MIN_CONTRAST = 1.0
# Codes are stored as whole numbers: a unit vector of 64 numbers has none beyond this, nearly.
_CODE_STEP = 1 / 254
_GEM_POWER = 3.0
# Length on the plane z = 1 beyond which rays are not looked at: 72 degrees off the axis, where that
# plane is too far off to compare places on it.
_MAX_RAY = 3.0
# Cells of this many images give the principal components of the codes.
_MAX_COMPONENT_CELLS = 20_000


@dataclass(frozen=True, eq=False)
class Frame:
    """One image on the grid of a map.

    Attributes:
        codes_LP: unit vectors, float32: L = h * w cells, row by row. Zeros where a cell has no ray
            or one too far off the axis: then it matches nothing.
        rays_L2: on the plane z = 1 of the image's camera, without distortion; float32; zeros there.
        vector_G: of the whole image, to be whitened; float32.
    """

    codes_LP: Tensor
    rays_L2: Tensor
    vector_G: Tensor


@dataclass(frozen=True, eq=False)
class Frames:
    """Images on the grid of a map.

    Attributes:
        codes_NLP: int8, times 254; zeros as of `Frame`.
        rays_KL2: of each camera, float32; likewise.
        camera_N: int64, which camera an image is of.
        vectors_NG: float32.
    """

    codes_NLP: Tensor
    rays_KL2: Tensor
    camera_N: Tensor
    vectors_NG: Tensor

    def codes(self, index: Tensor) -> Tensor:
        """Codes (..., L, P) float32, of unit length or zeros."""
        return functional.normalize(self.codes_NLP[index].float(), dim=-1)

    def rays(self, index: Tensor) -> Tensor:
        """Rays (..., L, 2)."""
        return self.rays_KL2[self.camera_N[index]]


@dataclass(frozen=True, eq=False)
class FrameReader:
    """Images to frames.

    Attributes:
        encoder: frozen.
        size: width and height in pixels to which images are brought, whatever their aspect: rays
            stay right, and codes bear it.
        components_CP: codes to fewer numbers.
        focal_ratio: of the focal length of the mapping views to the longer side, which an image
            without a known focal length is taken to have; None: its guess is taken.
    """

    encoder: FrozenEncoder
    size: tuple[int, int]
    components_CP: Tensor
    focal_ratio: float | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.size[1] // STRIDE, self.size[0] // STRIDE

    def read(self, image_3HW: Tensor, camera: Camera) -> Frame | None:
        """The frame of an image (3, H, W) uint8 RGB; None where it shows nothing."""
        codes_LC = encode_image(self.encoder, image_3HW, self.size)
        if codes_LC is None:
            return None
        codes_LP = functional.normalize(codes_LC @ self.components_CP, dim=-1)
        rays_L2 = cell_rays(with_focal(camera, self.focal_ratio), self.size)
        seen_L1 = is_ahead(rays_L2)[:, None]
        codes_LP, rays_L2 = codes_LP.where(seen_L1, 0.0), rays_L2.where(seen_L1, 0.0)
        return Frame(codes_LP, rays_L2, pooled(codes_LC))


def map_size(views: Sequence[View], short_side_px: int) -> tuple[int, int]:
    """Width and height, multiples of the encoder's stride, of the usual aspect of the views."""
    aspect = median(view.camera.width / view.camera.height for view in views)
    short = max(2, round(short_side_px / STRIDE))
    long = max(2, round(short * max(aspect, 1 / aspect)))
    return (long * STRIDE, short * STRIDE) if aspect >= 1 else (short * STRIDE, long * STRIDE)


@torch.no_grad()
def encode_image(encoder: FrozenEncoder, image_3HW: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Codes (L, C) float32 of mean square 1; None where the image shows nothing.

    One image at a time, so that an answer does not depend on its company.
    """
    grey_HW = grey_from_rgb(image_3HW)[0].numpy()
    shrinks = grey_HW.shape[1] > size[0]
    grey_HW = cv2.resize(
        grey_HW, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    if grey_HW.std() < _MIN_CONTRAST:
        return None
    grey_11HW = torch.from_numpy(grey_HW)[None, None].float() / 255
    with autocast(Run(device=str(encoder.device))):
        codes = encoder(grey_11HW.to(encoder.device).contiguous(memory_format=torch.channels_last))
    return codes[0].float().cpu().flatten(1).T.contiguous()


def cell_rays(camera: Camera, size: tuple[int, int]) -> Tensor:
    """Rays (L, 2) float32 of the cells of an image brought to `size`; NaN where there is none."""
    width, height = size
    pixels_L2 = cell_centers(height // STRIDE, width // STRIDE).double()
    pixels_L2 *= torch.tensor([camera.width / width, camera.height / height])
    return camera.cam_from_img(pixels_L2).float()


def is_ahead(rays_L2: Tensor) -> Tensor:
    """Which cells (L,) have a ray that is near enough to the axis to be used."""
    return rays_L2.norm(dim=-1) <= _MAX_RAY


def pooled(codes_LC: Tensor) -> Tensor:
    """(2 C,): generalised means of the positive and the negative parts, of norm 1."""
    both = torch.cat([codes_LC, -codes_LC], dim=1).clamp_min(0)
    return functional.normalize(both.pow(_GEM_POWER).mean(0).pow(1 / _GEM_POWER), dim=0)


def read_views(
    encoder: FrozenEncoder,
    views: Sequence[View],
    size: tuple[int, int],
    code: int,
    run: Run,
    components_CP: Tensor | None = None,
) -> tuple[FrameReader, Frames, list[int]]:
    """Encode mapping views, and learn which numbers of the codes matter here.

    Args:
        encoder: frozen.
        views: to read.
        size: width and height to which images are brought.
        code: how many numbers of a code are kept.
        run: device, progress, log.
        components_CP: codes to fewer numbers, where these are known; None: they are learned.

    Returns:
        The reader for queries, the frames, and which views they are of: one that cannot be read or
        shows nothing is left out, and named in the log. One without a known focal length has that
        of the others.

    Raises:
        InputError: none is left, or the focal length of none is known.
    """
    ratio = known_focal_ratio(views, run)
    codes, vectors, kept = [], [], []
    for index, view in enumerate(run.progress.track(views, "encoding")):
        try:
            codes_LC = encode_image(encoder, view.read_image(), size)
        except InputError as error:
            run.log.warning("left out: %s", error)
            continue
        if codes_LC is None:
            run.log.warning("left out: image %s has no texture", view.name)
            continue
        codes.append(codes_LC.half())
        vectors.append(pooled(codes_LC))
        kept.append(index)
    if not kept:
        raise InputError(f"none of the {len(views)} mapping images can be read and has texture")
    if components_CP is None:
        components_CP = principal_directions(codes, code)
    codes_NLP = torch.stack(
        [
            (functional.normalize(c.float() @ components_CP, dim=-1) / _CODE_STEP)
            .round()
            .clamp(-127, 127)
            .to(torch.int8)
            for c in codes
        ]
    )
    cameras = [with_focal(views[index].camera, ratio) for index in kept]
    keys = [str(camera.as_dict()) for camera in cameras]
    distinct = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    rays_KL2 = torch.stack([cell_rays(cameras[keys.index(key)], size) for key in distinct])
    camera_N = torch.tensor([distinct[key] for key in keys])
    seen_KL1 = is_ahead(rays_KL2)[..., None]
    codes_NLP *= seen_KL1[camera_N]
    rays_KL2 = rays_KL2.where(seen_KL1, 0.0)
    frames = Frames(codes_NLP, rays_KL2, camera_N, torch.stack(vectors))
    return FrameReader(encoder, size, components_CP, ratio), frames, kept


def principal_directions(codes: Sequence[Tensor], count: int) -> Tensor:
    """(C, P): the directions of the codes with most variance about zero, as cosines see them."""
    step = max(1, sum(len(c) for c in codes) // _MAX_COMPONENT_CELLS)
    sample = torch.cat([c[number % step :: step] for number, c in enumerate(codes)]).double()
    _, directions = torch.linalg.eigh(sample.T @ sample)
    return directions.flip(1)[:, :count].float().contiguous()
