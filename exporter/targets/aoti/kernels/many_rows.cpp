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

constexpr int64_t kGroup = 4;           // codes that one lane holds
constexpr int64_t kPanel = 64;          // columns of a panel
constexpr int64_t kRows = 6;            // rows that go against it at once
constexpr int64_t kBlock = 32 * kRows;  // rows that a thread takes at once
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

  // Columns from `first` on; zeros where there are none, and behind a column's end. Those of the
  // next panel are fetched from memory meanwhile.
  void pack(const Linear& l, int64_t first) {
    const __m512i offset = _mm512_set1_epi8(static_cast<char>(l.offset));
    for (int64_t part = 0; part < kPanel; part += kLanes) {
      __m512i sums = Int8::zero();
      for (int64_t k = 0; k < l.length; k += Codes::kUnit) {
        const __mmask64 inside = l.length - k < Codes::kUnit ? (1ULL << (l.length - k)) - 1 : ~0ULL;
        __m512i block[kLanes];
        for (int64_t lane = 0; lane < kLanes; lane++) {
          const int64_t column = first + part + lane;
          const int8_t* place = l.weight + column * l.length + k;
          block[lane] = column < l.columns ? _mm512_maskz_loadu_epi8(inside, place)
                                           : _mm512_setzero_si512();
          _mm_prefetch(reinterpret_cast<const char*>(place + kPanel * l.length), _MM_HINT_T1);
        }
        transpose(block);
        uint32_t* place = codes.data() + k / kGroup * kPanel + part;
        for (int64_t group = 0; group < kLanes; group++) {
          Int8::add(sums, offset, block[group]);
          _mm512_storeu_si512(place + group * kPanel, block[group]);
        }
      }
      _mm512_storeu_si512(offsets + part, sums);
    }
  }
};

void tile(const Linear& l, const Codes& codes, int64_t row, int64_t first, const Panel& panel) {
  __m512i sums[kRows][kParts];
  const int64_t groups = codes.width / kGroup;
  multiply<Int8, kRows, kParts>(reinterpret_cast<const uint32_t*>(codes.row(row)),
                                codes.pitch / kGroup,
                                panel.codes.data(), groups, sums);
  for (int part = 0; part < kParts && first + part * kLanes < l.columns; part++) {
    const int64_t column = first + part * kLanes;
    const __mmask16 mask = inside(l.columns, column);
    const __m512 scales = _mm512_maskz_loadu_ps(mask, l.scale + column);
    const __m512 bias = l.bias ? _mm512_maskz_loadu_ps(mask, l.bias + column) : _mm512_setzero_ps();
    const __m512i offsets = _mm512_loadu_si512(panel.offsets + part * kLanes);
    for (int64_t r = 0; r < std::min(kRows, l.rows - row); r++) {
      const __m512 product = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][part], offsets));
      const __m512 both = _mm512_mul_ps(_mm512_set1_ps(codes.scales[row + r]), scales);
      const Vec sum = _mm512_fmadd_ps(product, both, bias);
      _mm512_mask_storeu_ps(l.y + (row + r) * l.columns + column, mask, l.gelu ? gelu(sum) : sum);
    }
  }
}

}  // namespace

void many_rows(const Linear& l) {
  Codes codes(l, l.rows, kRows - 1);
  const int64_t blocks = (l.rows + kBlock - 1) / kBlock;
  Work quantizing(blocks), multiplying((l.columns + kPanel - 1) / kPanel * blocks);
  const auto each_row = [&](int64_t block, int64_t step, auto run) {
    const int64_t end = std::min((block + 1) * kBlock, l.rows);
    for (int64_t row = block * kBlock; row < end; row += step) run(row);
  };
  EXPORTER_PARALLEL {
    quantizing.each([&](int64_t block) {
      codes.quantize(l, block * kBlock, std::min((block + 1) * kBlock, l.rows));
    });
#pragma omp barrier
    Panel panel(codes.width / kGroup);
    int64_t packed = -1;
    multiplying.each([&](int64_t item) {
      const int64_t first = item / blocks * kPanel;
      if (packed != first) panel.pack(l, packed = first);
      each_row(item % blocks, kRows, [&](int64_t row) { tile(l, codes, row, first, panel); });
    });
  }
}
#else
void many_rows(const Linear& l) { few_rows(l); }
#endif

}  // namespace exporter
