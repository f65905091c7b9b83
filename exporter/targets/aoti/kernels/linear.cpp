// y = x W^T + b with int8 weights, and GELU of that where asked for.
#include "linear.h"

namespace exporter {
namespace {

constexpr int64_t kMany = 64;            // rows, from which on packing pays
constexpr int64_t kCodesBytes = 8 << 20;  // of codes at once: memory does not grow with the rows
constexpr int64_t kUnitRows = 192;

void run(const Linear& linear) {
  const int64_t most = std::max(kCodesBytes / linear.length / kUnitRows * kUnitRows, kUnitRows);
  for (int64_t row = 0; row < linear.rows; row += most) {
    Linear part = linear;
    part.x += row * linear.stride;
    part.y += row * linear.columns;
    part.rows = std::min(most, linear.rows - row);
    part.rows < kMany ? few_rows(part) : many_rows(part);
  }
}

// A linear module, whose fields for inputs of its own are not set yet.
Linear made(AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle scale,
            AtenTensorHandle* bias, int32_t gelu) {
  const int64_t columns = size(weight, 0), length = size(weight, 1);
  return {data<float>(x),
          data<int8_t>(weight),
          data<float>(scale),
          bias ? data<float>(*bias) : nullptr,
          nullptr,
          count(x) / length,
          columns,
          length,
          gelu != 0,
          length};
}

void set_range(Linear& linear, AtenTensorHandle step, AtenTensorHandle zero) {
  linear.step = *data<float>(step);
  linear.offset = *data<uint8_t>(zero);
}

AOTITorchError multiply(Linear linear, AtenTensorHandle x, AtenTensorHandle* y) {
  if (const auto error = make(x, linear.columns, y)) return error;
  linear.y = data<float>(*y);
  run(linear);
  return AOTI_TORCH_SUCCESS;
}

// Rows of several frames [batch, frames, channels] that lie side by side, and overlap.
AOTITorchError convolve(Linear linear, AtenTensorHandle x, int64_t stride, AtenTensorHandle* y) {
  const int64_t batch = size(x, 0), frames = size(x, 1), channels = size(x, 2);
  if (frames * channels < linear.length) return AOTI_TORCH_FAILURE;
  linear.rows = (frames - linear.length / channels) / stride + 1;
  linear.stride = stride * channels;
  const int64_t sizes[] = {batch, linear.rows, linear.columns};
  const int64_t strides[] = {linear.rows * linear.columns, linear.columns, 1};
  if (const auto error = aoti_torch_empty_strided(3, sizes, strides, aoti_torch_dtype_float32(),
                                                  aoti_torch_device_type_cpu(), 0, y))
    return error;
  linear.y = data<float>(*y);
  for (int64_t each = 0; each < batch; each++) {
    run(linear);
    linear.x += frames * channels;
    linear.y += strides[0];
  }
  return AOTI_TORCH_SUCCESS;
}

}  // namespace
}  // namespace exporter

using exporter::convolve;
using exporter::made;
using exporter::multiply;
using exporter::set_range;

// x float32 [..., in], weight int8 [out, in], scale float32 [out], bias float32 [out] or null.
extern "C" AOTITorchError aoti_torch_cpu_int8_linear(AtenTensorHandle x, AtenTensorHandle weight,
                                                     AtenTensorHandle scale,
                                                     AtenTensorHandle* bias, int32_t gelu,
                                                     AtenTensorHandle* y) {
  return multiply(made(x, weight, scale, bias, gelu), x, y);
}

// x float32 [batch, frames, in], weight int8 [out, kernel * in].
extern "C" AOTITorchError aoti_torch_cpu_int8_conv(AtenTensorHandle x, AtenTensorHandle weight,
                                                   AtenTensorHandle scale, AtenTensorHandle* bias,
                                                   int64_t stride, int32_t gelu,
                                                   AtenTensorHandle* y) {
  return convolve(made(x, weight, scale, bias, gelu), x, stride, y);
}

// The same with one scale and one zero point for all inputs: the first of step float32 and of zero uint8.
extern "C" AOTITorchError aoti_torch_cpu_static_int8_linear(
    AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle scale, AtenTensorHandle step,
    AtenTensorHandle zero, AtenTensorHandle* bias, int32_t gelu, AtenTensorHandle* y) {
  auto linear = made(x, weight, scale, bias, gelu);
  set_range(linear, step, zero);
  return multiply(linear, x, y);
}

extern "C" AOTITorchError aoti_torch_cpu_static_int8_conv(
    AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle scale, AtenTensorHandle step,
    AtenTensorHandle zero, AtenTensorHandle* bias, int64_t stride, int32_t gelu,
    AtenTensorHandle* y) {
  auto linear = made(x, weight, scale, bias, gelu);
  set_range(linear, step, zero);
  return convolve(linear, x, stride, y);
}
