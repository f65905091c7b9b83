// aten's matrix products in float32: mm, addmm, bmm.
#include "tensor.h"
#include "products.h"

namespace exporter {
namespace {

constexpr int64_t kFew = 4;  // rows, below which weights are read once and not packed

// Matrix `index` of a batch [..., rows, columns].
Matrix matrix(const AtenTensorOpaque& tensor, int64_t index) {
  const int64_t row = tensor.axes - 2, batch = tensor.axes == 3 ? tensor.strides[0] : 0;
  return {tensor.floats() + index * batch, tensor.strides[row], tensor.strides[row + 1]};
}

void fill(const Matrix& out, int64_t rows, int64_t columns, const Matrix* from, float factor) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++)
      *out.at(r, c).data = from ? factor * *from->at(r, c).data : 0.0F;
}

float dot(const float* left, const float* right, int64_t length) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < length; k++) sum += left[k] * right[k];
  return sum;
}

// out = left right + factor * start, for `count` matrices.
void product(const AtenTensorOpaque& left, const AtenTensorOpaque& right,
             const AtenTensorOpaque& out, const Matrix* start, float factor) {
  const int64_t count = out.axes == 3 ? out.sizes[0] : 1;
  const int64_t rows = out.sizes[out.axes - 2], columns = out.sizes[out.axes - 1];
  const int64_t depth = left.sizes[left.axes - 1];
  const bool few = rows <= kFew && matrix(right, 0).row == 1 && matrix(left, 0).column == 1;
  each_block(count, rows, columns, [&](int64_t index, int64_t row, int64_t height, int64_t column,
                                       int64_t width, Panel& panel) {
    const Matrix a = matrix(left, index).at(row, 0), b = matrix(right, index).at(0, column);
    const Matrix block = matrix(out, index).at(row, column);
    const Matrix begin = start ? start->at(row, column) : block;
    fill(block, height, width, start ? &begin : nullptr, factor);
    if (!few) return add_product(a, b, block, height, width, depth, panel);
    for (int64_t c = 0; c < width; c++)
      for (int64_t r = 0; r < height; r++)
        *block.at(r, c).data += dot(a.at(r, 0).data, b.at(0, c).data, depth);
  });
}

}  // namespace
}  // namespace exporter

extern "C" {

AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle left,
                                     AtenTensorHandle right) {
  if (!exporter::are_floats({out, left, right})) return AOTI_TORCH_FAILURE;
  exporter::product(*left, *right, *out, nullptr, 0);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_cpu_bmm_out(AtenTensorHandle out, AtenTensorHandle left,
                                      AtenTensorHandle right) {
  return aoti_torch_cpu_mm_out(out, left, right);
}

// out = beta * start + left right; `start` has one row, or as many as the product.
AOTITorchError aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle start,
                                        AtenTensorHandle left, AtenTensorHandle right, double beta,
                                        double alpha) {
  if (!exporter::are_floats({out, start, left, right}) || alpha != 1) return AOTI_TORCH_FAILURE;
  const int64_t last = start->axes - 1;
  const auto stride = [&](int64_t axis) {
    return axis < 0 || start->sizes[axis] == 1 ? 0 : start->strides[axis];
  };
  const exporter::Matrix begin{start->floats(), stride(last - 1), stride(last)};
  exporter::product(*left, *right, *out, &begin, static_cast<float>(beta));
  return AOTI_TORCH_SUCCESS;
}

}  // extern "C"
