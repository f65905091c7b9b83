// aten's attention in float32: softmax(query key^T * scale + mask) value.
#include <cmath>
#include <vector>

#include "tensor.h"
#include "products.h"

namespace exporter {
namespace {

constexpr int64_t kQueries = 8 * kTileRows;  // that a thread takes at once

// A head [length, width] of a tensor [batch, heads, length, width]; axes of one repeat.
Matrix head_of(const AtenTensorOpaque& tensor, int64_t batch, int64_t head) {
  const auto stride = [&](int64_t axis) { return tensor.sizes[axis] == 1 ? 0 : tensor.strides[axis]; };
  return {tensor.floats() + batch * stride(0) + head * stride(1), stride(2), tensor.strides[3]};
}

// Turns a row of scores into weights that sum to one; returns the logarithm of their sum before.
float softmax(float* scores, int64_t length) {
  float peak = -INFINITY;
#pragma omp simd reduction(max : peak)
  for (int64_t at = 0; at < length; at++) peak = std::max(peak, scores[at]);
  if (peak == -INFINITY) {  // all are masked
    std::fill_n(scores, length, 0.0F);
    return peak;
  }
  Floats sums{};
  int64_t at = 0;
  for (; at + kFloats <= length; at += kFloats) {
    const Floats weight = exponential<kFloats>(loaded(scores + at) - peak);
    sums += weight;
    __builtin_memcpy(scores + at, &weight, sizeof weight);
  }
  if (at < length) {
    float rest[kFloats];
    std::fill_n(rest, kFloats, -INFINITY);
    std::copy_n(scores + at, length - at, rest);
    const Floats weight = exponential<kFloats>(loaded(rest) - peak);
    sums += weight;
    __builtin_memcpy(scores + at, &weight, (length - at) * sizeof(float));
  }
  float sum = 0;
  for (int lane = 0; lane < kFloats; lane++) sum += sums[lane];
  for (at = 0; at < length; at++) scores[at] *= 1 / sum;
  return peak + std::log(sum);
}

}  // namespace
}  // namespace exporter

// The results are [batch, heads, length, width], with heads side by side in memory, and the
// logarithms of the weights' sums [batch, heads, length].
extern "C" AOTITorchError aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu(
    AtenTensorHandle query, AtenTensorHandle key, AtenTensorHandle value, double dropout,
    int32_t causal, AtenTensorHandle* mask, double* scale, AtenTensorHandle* out,
    AtenTensorHandle* logarithms) {
  using namespace exporter;
  if (!are_floats({query, key, value, mask ? *mask : query}) || dropout != 0 || causal ||
      (mask && (*mask)->axes != 4))
    return AOTI_TORCH_FAILURE;
  const int64_t batches = query->sizes[0], heads = query->sizes[1], length = query->sizes[2];
  const int64_t width = query->sizes[3], source = key->sizes[2], results = value->sizes[3];
  const float factor =
      static_cast<float>(scale ? *scale : 1 / std::sqrt(static_cast<double>(width)));
  const int64_t sizes[] = {batches, heads, length, results};
  const int64_t strides[] = {length * heads * results, results, heads * results, 1};
  *out = allocated(4, sizes, strides, kFloat32);
  const int64_t rows[] = {length * heads, 1, heads};
  *logarithms = allocated(3, sizes, rows, kFloat32);
  const int64_t blocks = (length + kQueries - 1) / kQueries;
  Work work(batches * heads * blocks);
  EXPORTER_PARALLEL {
    Panel panel;
    std::vector<float> scores(kQueries * source);
    work.each([&](int64_t item) {
      const int64_t batch = item / blocks / heads, head = item / blocks % heads;
      const int64_t first = item % blocks * kQueries, count = std::min(kQueries, length - first);
      const Matrix keys = head_of(*key, batch, head), block{scores.data(), source, 1};
      std::fill(scores.begin(), scores.end(), 0.0F);
      add_product(head_of(*query, batch, head).at(first, 0), {keys.data, keys.column, keys.row},
                  block, count, source, width, panel);
      for (int64_t r = 0; r < count; r++) {
        float* row = block.at(r, 0).data;
        for (int64_t at = 0; at < source; at++) row[at] *= factor;
        if (mask) {
          const Matrix added = head_of(**mask, batch, head).at(first + r, 0);
          const int64_t step = (*mask)->sizes[3] == 1 ? 0 : added.column;
          for (int64_t at = 0; at < source; at++) row[at] += added.data[at * step];
        }
        (*logarithms)->floats()[(batch * length + first + r) * heads + head] =
            softmax(row, source);
      }
      const Matrix result = head_of(**out, batch, head);
      const Matrix place{result.data + first * strides[2], strides[2], 1};
      for (int64_t r = 0; r < count; r++) std::fill_n(place.at(r, 0).data, results, 0.0F);
      add_product(block, head_of(*value, batch, head), place, count, results, source, panel);
    });
  }
  return AOTI_TORCH_SUCCESS;
}
