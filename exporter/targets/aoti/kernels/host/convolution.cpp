// aten's convolution in float32, along one axis or two: a product with frames that are unfolded as
// they are packed.
#include <vector>

#include "tensor.h"
#include "products.h"

namespace exporter {
namespace {

// Lengths or strides along [batch, channels, height, width].
struct Four {
  int64_t batch, channels, height, width;

  Four(const int64_t* of, int64_t axes, int64_t missing)
      : batch(of[0]), channels(of[1]), height(axes == 4 ? of[2] : missing), width(of[axes - 1]) {}
};

struct Steps {  // stride, padding or dilation
  int64_t height, width;

  Steps(const int64_t* of, int64_t count, int64_t missing)
      : height(count == 2 ? of[0] : missing), width(of[count - 1]) {}
};

// Whether torch's convolution takes a tensor's channels to lie side by side, and then lays out its
// result so: c10::is_channels_last_strides_2d. Along one axis, it first puts a height of one into
// the tensor, and copies an input that is not contiguous; a single channel counts as side by side.
bool channels_last(const AtenTensorOpaque& tensor, bool copied) {
  int64_t sizes[4], strides[4];
  std::copy_n(tensor.sizes, 4, sizes);
  std::copy_n(tensor.strides, 4, strides);
  if (tensor.axes == 3) {
    if (copied && !tensor.contiguous()) return false;
    sizes[3] = sizes[2], strides[3] = strides[2];
    sizes[2] = 1, strides[2] = sizes[3] * strides[3];
  }
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (const int axis : {1, 3, 2, 0}) {
    if (sizes[axis] == 0 || strides[axis] < least) return false;
    if (axis == 0 && least == strides[1]) return false;
    least = strides[axis] * std::max<int64_t>(sizes[axis], 1);
  }
  return true;
}

struct Convolution {
  const float* input;
  Four in, in_strides, kernel;
  Steps stride, padding, dilation;
  int64_t height, width;  // of the output

  int64_t taps() const { return kernel.height * kernel.width; }

  // Input numbers for one number of a kernel, at `count` places of the output from `first` on.
  void unfold(const float* channel, int64_t tap, int64_t first, int64_t count, float* to) const {
    const int64_t y = tap / kernel.width * dilation.height - padding.height;
    const int64_t x = tap % kernel.width * dilation.width - padding.width;
    int64_t row = first / width, column = first % width;
    for (int64_t at = 0; at < count; at++) {
      const int64_t i = row * stride.height + y, j = column * stride.width + x;
      const bool inside = i >= 0 && i < in.height && j >= 0 && j < in.width;
      to[at] = inside ? channel[i * in_strides.height + j * in_strides.width] : 0.0F;
      if (++column == width) column = 0, row++;
    }
  }
};

// Kernels [out, in of a group, height, width] as they lie in a contiguous tensor.
std::shared_ptr<AtenTensorOpaque> in_order(AtenTensorHandle kernel) {
  return std::shared_ptr<AtenTensorOpaque>(
      kernel->contiguous() ? new AtenTensorOpaque(*kernel) : contiguous_copy(*kernel));
}

AtenTensorHandle output(const AtenTensorOpaque& input, const AtenTensorOpaque& kernel,
                        int64_t height, int64_t width) {
  const int64_t channels = kernel.sizes[0], places = height * width;
  int64_t sizes[] = {input.sizes[0], channels, height, width};
  if (input.axes == 3) sizes[2] = width;
  int64_t last[] = {places * channels, 1, width * channels, channels};
  if (input.axes == 3) last[2] = channels;
  const bool side_by_side = channels_last(input, true) || channels_last(kernel, false);
  return allocated(input.axes, sizes, side_by_side ? last : nullptr, kFloat32);
}

void convolve(const Convolution& c, const AtenTensorOpaque& kernel, const float* bias,
              int64_t groups, const AtenTensorOpaque& out) {
  const int64_t channels = kernel.sizes[0] / groups, depth = c.kernel.channels * c.taps();
  const Four strides(out.strides, out.axes, 0);
  each_block(c.in.batch * groups, channels, c.height * c.width,
             [&](int64_t index, int64_t row, int64_t rows, int64_t first, int64_t count,
                 Panel& panel) {
    const int64_t batch = index / groups, group = index % groups;
    const int64_t channel = group * channels + row;
    const float* input = c.input + batch * c.in_strides.batch +
                         group * c.kernel.channels * c.in_strides.channels;
    const Matrix weights{kernel.floats() + channel * depth, depth, 1};
    const Matrix block{out.floats() + batch * strides.batch + channel * strides.channels +
                           first * strides.width,
                       strides.channels, strides.width};
    for (int64_t r = 0; r < rows; r++)
      for (int64_t at = 0; at < count; at++)
        *block.at(r, at).data = bias ? bias[channel + r] : 0.0F;
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t deep = std::min(kDepth, depth - k);
      for (int64_t d = 0; d < deep; d++) {
        const int64_t from = (k + d) / c.taps(), tap = (k + d) % c.taps();
        c.unfold(input + from * c.in_strides.channels, tap, first, count, panel.row(d));
        std::fill(panel.row(d) + count, panel.row(d) + kColumns, 0.0F);
      }
      add_rows(weights.at(0, k), rows, panel, deep, block, count);
    }
  });
}

}  // namespace
}  // namespace exporter

extern "C" AOTITorchError aoti_torch_cpu_convolution(
    AtenTensorHandle input, AtenTensorHandle kernel, AtenTensorHandle* bias, const int64_t* stride,
    int64_t stride_count, const int64_t* padding, int64_t padding_count, const int64_t* dilation,
    int64_t dilation_count, int32_t transposed, const int64_t*, int64_t, int64_t groups,
    AtenTensorHandle* out) {
  using namespace exporter;
  const bool plain = !transposed && (input->axes == 3 || input->axes == 4);
  if (!plain || !are_floats({input, kernel, bias ? *bias : input})) return AOTI_TORCH_FAILURE;
  const int64_t axes = input->axes;
  Convolution c{input->floats(),
                Four(input->sizes, axes, 1),
                Four(input->strides, axes, 0),
                Four(kernel->sizes, axes, 1),
                Steps(stride, stride_count, 1),
                Steps(padding, padding_count, 0),
                Steps(dilation, dilation_count, 1),
                0,
                0};
  const auto length = [](int64_t in, int64_t taps, int64_t step, int64_t pad, int64_t apart) {
    return (in + 2 * pad - apart * (taps - 1) - 1) / step + 1;
  };
  c.height = length(c.in.height, c.kernel.height, c.stride.height, c.padding.height,
                    c.dilation.height);
  c.width = length(c.in.width, c.kernel.width, c.stride.width, c.padding.width, c.dilation.width);
  if (c.height < 1 || c.width < 1) return AOTI_TORCH_FAILURE;
  const auto weights = in_order(kernel);
  const auto biases = bias ? in_order(*bias) : nullptr;
  *out = output(*input, *kernel, c.height, c.width);
  convolve(c, *weights, biases ? biases->floats() : nullptr, groups, **out);
  return AOTI_TORCH_SUCCESS;
}
