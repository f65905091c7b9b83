// For many rows, as in an encoder, arithmetic is the bound. A panel of columns is packed, then goes
// against all rows; scales, bias and GELU are applied while sums are still in registers.
#include <ATen/cpu/vec/vec.h>

#include "gelu.h"
#include "linear.h"
#include "panels.h"

namespace exporter {

#ifdef __AVX512VNNI__
namespace {

using Vec = at::vec::Vectorized<float>;

constexpr int64_t kGroup = 4;  // codes that one lane holds
constexpr int kParts = kPanel / kLanes;

Vec gelu(Vec x) {
  return gelu_within(x, at::vec::clamp(x * Vec(0.70710678F), Vec(-4.0F), Vec(4.0F)));
}

__mmask16 inside(int64_t length, int64_t at) {
  return length - at < kLanes ? (1U << (length - at)) - 1 : 0xffffU;
}

struct Panel {
  std::vector<uint32_t> codes;  // [groups][kPanel]
  int32_t offsets[kPanel];

  explicit Panel(int64_t groups) : codes(groups * kPanel) {}

  // Columns from `first` on; zeros where there are none, and where a column ends within a group.
  void pack(const Linear& l, int64_t first) {
    for (int64_t c = 0; c < kPanel; c++) {
      const int64_t length = first + c < l.columns ? l.length : 0;
      const int8_t* column = l.weight + (first + c) * l.length;
      int32_t sum = 0;
      for (int64_t k = 0; k < length; k++) sum += column[k];
      offsets[c] = kOffset * sum;
      const int64_t groups = static_cast<int64_t>(codes.size()) / kPanel;
      for (int64_t group = 0; group < groups; group++) {
        uint32_t four = 0;
        const int64_t left = length - group * kGroup;
        if (left >= kGroup) __builtin_memcpy(&four, column + group * kGroup, kGroup);
        else if (left > 0) __builtin_memcpy(&four, column + group * kGroup, left);
        codes[group * kPanel + c] = four;
      }
    }
  }
};

void tile(const Linear& l, const Codes& codes, int64_t row, int64_t first, const Panel& panel) {
  __m512i sums[kPanelRows][kParts];
  multiply<Int8, kParts>(reinterpret_cast<const uint32_t*>(codes.row(row)), codes.width / kGroup,
                         panel.codes.data(), panel.codes.size() / kPanel, sums);
  for (int part = 0; part < kParts && first + part * kLanes < l.columns; part++) {
    const int64_t column = first + part * kLanes;
    const __mmask16 mask = inside(l.columns, column);
    const __m512 scales = _mm512_maskz_loadu_ps(mask, l.scale + column);
    const __m512 bias = l.bias ? _mm512_maskz_loadu_ps(mask, l.bias + column) : _mm512_setzero_ps();
    const __m512i offsets = _mm512_loadu_si512(panel.offsets + part * kLanes);
    for (int64_t r = 0; r < std::min(kPanelRows, l.rows - row); r++) {
      const __m512 product = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][part], offsets));
      const __m512 both = _mm512_mul_ps(_mm512_set1_ps(codes.scales[row + r]), scales);
      const Vec sum = _mm512_fmadd_ps(product, both, bias);
      _mm512_mask_storeu_ps(l.y + (row + r) * l.columns + column, mask, l.gelu ? gelu(sum) : sum);
    }
  }
}

}  // namespace

void many_rows(const Linear& l) {
  Codes codes(l.rows, l.length, kPanelRows - 1);
  EXPORTER_PARALLEL {
    const Share rows(l.rows);
    for (int64_t row = rows.begin; row < rows.end; row++)
      codes.quantize(l.x + row * l.length, l.length, row);
#pragma omp barrier
    Panel panel((l.length + kGroup - 1) / kGroup);
    const Share mine(l.columns, kPanel);
    for (int64_t first = mine.begin; first < mine.end; first += kPanel) {
      panel.pack(l, first);
      for (int64_t row = 0; row < l.rows; row += kPanelRows) tile(l, codes, row, first, panel);
    }
  }
}
#else
void many_rows(const Linear& l) { few_rows(l); }
#endif

}  // namespace exporter
