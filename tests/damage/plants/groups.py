"""Weights in groups, of 4 and of 8 bits, and kernels of convolutions that are products."""

from collections.abc import Callable

from torch import Tensor

from tests.damage.onnx_graphs import Edited
from tests.damage.planting import Change, Registry
from tests.damage.plants.graphs import on as on_graph
from tests.damage.plants.scales import on
from tests.damage.tensors import Tensors

PLANTS = Registry()
_FOUR, _EIGHT = "model.decoder.layers.0.{}", "model.decoder.layers.1.{}"
_FC1, _FC2 = _FOUR.format("fc1"), _EIGHT.format("fc2")
_V = _FOUR.format("encoder_attn.v_proj")
_CONV = "model.encoder.conv2"
_DYNAMIC = "wav2vec2.feature_extractor.conv_layers.1.conv"


def _leaf(name: str, edit: Callable[[Tensor], object]) -> Change:
    return on(lambda t: edit(t[name]))


def _group_times(name: str, factor: float) -> Change:
    """One group's scale, of one row."""
    return _leaf(f"{name}.scale", lambda scale: scale[3, 1].mul_(factor))


def _groups_swapped(scale: Tensor) -> None:
    """Two groups of every row have each other's scales."""
    scale[:, :2] = scale[:, :2].flip(1).clone()


def _groups_of_a_row_swapped(scale: Tensor) -> None:
    scale[5, :2] = scale[5, :2].flip(0).clone()


def _zero_off(zeros: Tensor) -> None:
    """The zero point of one group, by one; its neighbour shares the byte."""
    low = int(zeros[2, 0]) & 15
    zeros[2, 0] += 1 if low < 15 else -1


def _nibbles(codes: Tensor) -> None:
    """The two codes of a byte change places."""
    codes.copy_((codes >> 4) | (codes << 4))


def _shifted(codes: Tensor) -> None:
    """The codes of one row moved on by a byte."""
    codes[9] = codes[9].flatten().roll(1).view_as(codes[9]).clone()


def _row_nibbles(codes: Tensor) -> None:
    _nibbles(codes[7])


def _without_signs(scale: Tensor) -> None:
    """Scales without the sign, which tells on which side a group has one code more."""
    scale.abs_()


def _transposed_groups(scale: Tensor) -> None:
    """Scales [out, groups] that were written as [groups, out]."""
    scale.copy_(scale.t().reshape(scale.shape).clone())


def _no_zero_points(g: Edited) -> None:
    """Nodes without their zero points, which then are 8."""
    for node in g.of("MatMulNBits"):
        if len(node.input) == 4:
            del node.input[3]


def _other_block(g: Edited) -> None:
    """Groups of 16 where the scales are of 32."""
    for node in g.of("MatMulNBits")[:1]:
        g.set(node, "block_size", 16)


def _taps(name: str, swap: Callable[[Tensor], Tensor]) -> Change:
    """Change the taps of a kernel, which torch stores last and the others before the channels."""

    def edit(tensors: Tensors) -> None:
        codes = tensors[f"{name}.weight"]
        kernel = _KERNELS[name]
        by_tap = codes if codes.ndim == 3 else codes.unflatten(1, (kernel, -1)).transpose(1, 2)
        changed = swap(by_tap.clone())
        codes.copy_(changed if codes.ndim == 3 else changed.transpose(1, 2).flatten(1))

    return on(edit)


def _two_taps(kernel: Tensor) -> Tensor:
    kernel[..., [0, 1]] = kernel[..., [1, 0]]
    return kernel


def _one_tap_permuted(kernel: Tensor) -> Tensor:
    """The channels of one tap, as of a reshape in another order."""
    kernel[..., 1] = kernel[..., 1].roll(1, 1)
    return kernel


def _channels_first(kernel: Tensor) -> Tensor:
    """Rows in the order of channels, then taps, under the name of taps, then channels."""
    return kernel.flatten(1).unflatten(1, (kernel.shape[2], -1)).transpose(1, 2)


def _taps_backwards(g: Edited) -> None:
    """Frames of a row in the reverse order, as of a true convolution."""
    node = g.of("Concat")[-1]
    node.input[:] = [*reversed(node.input)]


_KERNELS = {_CONV: 3, _DYNAMIC: 8}

add = PLANTS.add
add("group-scale-up-10-percent", "tiny/onnx-mixed", "subtle", "fc1", _group_times(_FC1, 1.1))
add("group-scale-up-10-percent-8", "tiny/torch-mixed", "subtle", "fc2", _group_times(_FC2, 1.1))
add(
    "group-scales-swapped",
    "tiny/aoti-mixed",
    "medium",
    "fc1",
    _leaf(f"{_FC1}.scale", _groups_swapped),
)
add(
    "group-scales-swapped-in-a-row",
    "tiny/torch-mixed",
    "subtle",
    "fc2",
    _leaf(f"{_FC2}.scale", _groups_of_a_row_swapped),
)
add(
    "group-scales-transposed",
    "tiny/onnx-mixed",
    "medium",
    "fc2",
    _leaf(f"{_FC2}.scale", _transposed_groups),
)
add(
    "group-scales-unsigned",
    "tiny/aoti-mixed",
    "severe",
    "fc2",
    _leaf(f"{_FC2}.scale", _without_signs),
)
add(
    "group-zero-point-off",
    "tiny/onnx-mixed",
    "subtle",
    "v_proj",
    _leaf(f"{_V}.zero_point", _zero_off),
)
add(
    "group-zero-point-off-aoti",
    "tiny/aoti-mixed",
    "subtle",
    "fc1",
    _leaf(f"{_FC1}.zero_point", _zero_off),
)
add(
    "group-zero-points-8",
    "tiny/torch-mixed",
    "medium",
    "fc1",
    _leaf(f"{_FC1}.zero_point", lambda zeros: zeros.fill_(0x88)),
)
add("group-nibbles-swapped", "tiny/onnx-mixed", "severe", "fc1", _leaf(f"{_FC1}.weight", _nibbles))
add(
    "group-nibbles-swapped-in-a-row",
    "tiny/torch-mixed",
    "subtle",
    "v_proj",
    _leaf(f"{_V}.weight", _row_nibbles),
)
add("group-row-shifted", "tiny/aoti-mixed", "subtle", "fc1", _leaf(f"{_FC1}.weight", _shifted))
add("group-row-shifted-8", "tiny/onnx-mixed", "subtle", "fc2", _leaf(f"{_FC2}.weight", _shifted))
add(
    "group-zero-points-left-out",
    "tiny/onnx-mixed",
    "medium",
    "faithful|step",
    on_graph("step", _no_zero_points),
)
add(
    "group-of-another-size",
    "tiny/onnx-mixed",
    "severe",
    "step|MatMulNBits",
    on_graph("step", _other_block),
)
add("taps-swapped", "tiny/torch-mixed", "medium", "conv2", _taps(_CONV, _two_taps))
add("taps-swapped-dynamic", "ctc/aoti-ctc", "medium", "conv_layers.1", _taps(_DYNAMIC, _two_taps))
add("tap-permuted", "tiny/aoti-mixed", "medium", "conv2", _taps(_CONV, _one_tap_permuted))
add(
    "tap-permuted-dynamic",
    "ctc/onnx-ctc",
    "medium",
    "conv_layers.1",
    _taps(_DYNAMIC, _one_tap_permuted),
)
add(
    "taps-in-another-order",
    "ctc/torch-ctc",
    "severe",
    "conv_layers.1",
    _taps(_DYNAMIC, _channels_first),
)
add(
    "taps-backwards",
    "ctc/onnx-ctc",
    "severe",
    "faithful|convolutions",
    on_graph("model", _taps_backwards),
)
# The tiny original's convolutions have no bias to drop: all are zero.
for target in ("torch", "aoti"):
    add(
        f"conv-bias-off-{target}",
        f"tiny/{target}-mixed",
        "medium",
        "conv2.bias",
        _leaf(f"{_CONV}.bias", lambda bias: bias.add_(0.1)),
    )
add(
    "conv-scales-off-by-a-row",
    "ctc/onnx-ctc",
    "medium",
    "conv_layers.1",
    _leaf(f"{_DYNAMIC}.scale", lambda scale: scale.copy_(scale.roll(1))),
)
