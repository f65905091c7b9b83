// A linear module with int8 weights, and its activations as int8: one scale a row, or one for all.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "tensors.h"

namespace exporter {

// What rows with a scale of their own are shifted by: VNNI multiplies unsigned by signed.
constexpr int32_t kOffset = 128;

struct Linear {
  const float* x;        // [rows, length]
  const int8_t* weight;  // [columns, length]
  const float* scale;    // [columns]
  const float* bias;     // [columns] or null
  float* y;              // [rows, columns]
  int64_t rows, columns, length;
  bool gelu;
  int64_t stride;            // from one row of x to the next: less than length where rows overlap
  float step = 0;            // the scale of all inputs; 0: each row has its own
  int32_t offset = kOffset;  // the code of a zero
};

// Rows as unsigned codes: `offset` times the sum of a column's weights has to come off a product.
struct Codes {
  static constexpr int64_t kUnit = 64;  // bytes that rows are padded to, a register

  int64_t width;  // of a row, padded
  int64_t pitch;  // from one row to the next
  std::unique_ptr<uint8_t[]> codes;  // what pads them is anything: weights are padded with zeros
  std::vector<float> scales;

  // Of `rows` rows, with room for `spare` rows more, which tiles may read. With one scale for all,
  // rows overlap as those of x do, so that what they share is computed once.
  Codes(const Linear& l, int64_t rows, int64_t spare = 0)
      : width((l.length + kUnit - 1) / kUnit * kUnit),
        pitch(l.step != 0 && l.stride < l.length && l.stride % 4 == 0 ? l.stride : width),
        codes(std::make_unique_for_overwrite<uint8_t[]>((rows + spare) * pitch + width)),
        scales(rows + spare, l.step) {}

  const uint8_t* row(int64_t index) const { return codes.get() + index * pitch; }

  // The rows from `begin` to `end`, of l.rows in all.
  void quantize(const Linear& l, int64_t begin, int64_t end) {
    if (l.step == 0)
      for (int64_t r = begin; r < end; r++) quantize(l.x + r * l.stride, l.length, r);
    else if (pitch == width)
      for (int64_t r = begin; r < end; r++) quantize(l, r * l.stride, l.length, r * pitch);
    else if (begin < end)
      quantize(l, begin * pitch, (end - begin) * pitch + (end == l.rows ? l.length - pitch : 0),
               begin * pitch);
  }

  // `count` numbers of x from `first` on, by the one scale for all.
  void quantize(const Linear& l, int64_t first, int64_t count, int64_t at) {
    const float* x = l.x + first;
    const float inverse = 1 / l.step, offset = static_cast<float>(l.offset);
    uint8_t* place = codes.get() + at;
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float code = std::nearbyint(x[k] * inverse) + offset;
      place[k] = static_cast<uint8_t>(static_cast<int>(std::min(std::max(code, 0.0F), 255.0F)));
    }
  }

  void quantize(const float* x, int64_t length, int64_t index) {
    float peak = 0;
#pragma omp simd reduction(max : peak)
    for (int64_t k = 0; k < length; k++) peak = std::max(peak, std::fabs(x[k]));
    const float scale = std::max(peak, 1e-12F) / 127, inverse = 1 / scale;
    uint8_t* place = codes.get() + index * pitch;
#pragma omp simd
    for (int64_t k = 0; k < length; k++)
      place[k] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(x[k] * inverse)) + kOffset);
    scales[index] = scale;
  }
};

void few_rows(const Linear& linear);
void many_rows(const Linear& linear);

}  // namespace exporter
