// A linear module with int8 weights, and its activations as int8, one scale a row.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "tensors.h"

namespace exporter {

struct Linear {
  const float* x;        // [rows, length]
  const int8_t* weight;  // [columns, length]
  const float* scale;    // [columns]
  const float* bias;     // [columns] or null
  float* y;              // [rows, columns]
  int64_t rows, columns, length;
  bool gelu;
};

// Rows as int8 codes, plus 128 because VNNI multiplies unsigned by signed: 128 times the sum of a
// column's weights has to come off a product again.
constexpr int32_t kOffset = 128;

struct Codes {
  static constexpr int64_t kUnit = 64;  // bytes that rows are padded to, a register

  int64_t width;  // of a row, padded
  std::unique_ptr<uint8_t[]> codes;  // what pads them is anything: weights are padded with zeros
  std::vector<float> scales;

  // With room for `spare` rows more, which tiles may read.
  Codes(int64_t rows, int64_t length, int64_t spare = 0)
      : width((length + kUnit - 1) / kUnit * kUnit),
        codes(std::make_unique_for_overwrite<uint8_t[]>((rows + spare) * width)),
        scales(rows + spare) {}

  const uint8_t* row(int64_t index) const { return codes.get() + index * width; }

  void quantize(const float* x, int64_t length, int64_t index) {
    float peak = 0;
#pragma omp simd reduction(max : peak)
    for (int64_t k = 0; k < length; k++) peak = std::max(peak, std::fabs(x[k]));
    const float scale = std::max(peak, 1e-12F) / 127, inverse = 1 / scale;
    uint8_t* place = codes.get() + index * width;
#pragma omp simd
    for (int64_t k = 0; k < length; k++)
      place[k] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(x[k] * inverse)) + kOffset);
    scales[index] = scale;
  }
};

void few_rows(const Linear& linear);
void many_rows(const Linear& linear);

}  // namespace exporter
